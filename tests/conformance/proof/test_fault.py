"""Where faults are found, and what is said where none are."""

import pytest

from conformance.proof.fault import FAULTS, load
from conformance.selection import CannotLoad


def test_a_package_is_imported_module_by_module_without_its_tests(tmp_path, monkeypatch):
    before = dict(FAULTS)
    package = tmp_path / "planted_here"
    package.mkdir()
    register = "from conformance.proof.fault import *\nFAULTS['{0}'] = Fault('{0}', nothing, 'a_check', 'a_model')\n"
    (package / "some.py").write_text(register.format("first"))
    (package / "more.py").write_text(register.format("second"))
    (package / "test_some.py").write_text("raise AssertionError('a test is not a fault')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        assert {"first", "second"} <= set(load("planted_here"))
    finally:
        FAULTS.clear()
        FAULTS.update(before)


def test_a_package_that_is_not_there_cannot_be_loaded():
    with pytest.raises(CannotLoad, match="--faults no_such_package"):
        load("no_such_package")


def test_a_module_without_faults_is_said(monkeypatch):
    before = dict(FAULTS)
    FAULTS.clear()
    try:
        with pytest.raises(CannotLoad, match="plants nothing"):
            load("json")
    finally:
        FAULTS.update(before)
