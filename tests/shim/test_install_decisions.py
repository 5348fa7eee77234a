"""What becomes of each patch, and of all, where one fails: on toys in the place of the catalogue."""

import dataclasses
import functools
import importlib
import importlib.metadata
import warnings
from types import SimpleNamespace

import pytest

import shim
from shim.patch import Patch, Replacement

# `shim.install` is the function; the module of that name is found by its path.
install_module = importlib.import_module("shim.install")


@pytest.fixture(autouse=True)
def _uninstalled(monkeypatch):
    monkeypatch.delenv("SHIM_DISABLE", raising=False)
    shim.uninstall()
    yield
    shim.uninstall()


def toy(name, replacements=list, is_broken=lambda: True, distribution="torch"):
    return Patch(name, "a toy", "owner/repo#1", distribution, ">=0", ("S6",), "a_check", is_broken, replacements)


@pytest.fixture
def only(monkeypatch):
    """Put toy patches in the catalogue's place."""

    def put(*patches):
        monkeypatch.setattr(install_module, "catalogue", lambda: patches)

    return put


class Target:
    value = "upstream"


def ours(value):
    return lambda: [Replacement(Target, "value", value)]


def test_a_patch_whose_replacements_fail_leaves_nothing_applied(only):
    def fails():
        raise RuntimeError("upstream moved")

    only(toy("first", ours("ours")), toy("second", fails))
    with pytest.raises(shim.PatchError, match=r"second .*upstream moved.*SHIM_DISABLE=second"):
        shim.install()
    assert Target.value == "upstream"
    only(toy("first", ours("ours")))
    assert [s.applied for s in shim.install()] == [True]
    assert Target.value == "ours"


def test_a_patch_that_an_owner_refuses_leaves_nothing_applied(only):
    only(toy("first", ours("ours")), toy("second", lambda: [Replacement(int, "bit_length", None)]))
    with pytest.raises(shim.PatchError, match="nothing was changed"):
        shim.install()
    assert Target.value == "upstream"
    assert install_module._INSTALLED is None


@pytest.mark.parametrize("affected", [">=0", ">99"])
def test_where_a_probe_fails_the_measured_range_decides(only, affected):
    def fails():
        raise LookupError("the toy does not run")

    patch = dataclasses.replace(toy("first", ours("ours"), is_broken=fails), affected=affected)
    only(patch)
    (status,) = shim.install()
    assert status.applied is patch.expected is (affected == ">=0")
    assert status.reason == "the probe raised LookupError: the toy does not run; the measured range decides"
    assert (Target.value == "ours") is patch.expected


def test_a_patch_is_asked_for_replacements_after_those_before_it_are_in_place(only):
    seen = []

    def second():
        seen.append(Target.value)
        return []

    only(toy("first", ours("ours")), toy("second", second))
    shim.install()
    assert seen == ["ours"]


def test_a_patch_that_is_not_needed_is_not_asked_for_replacements(only):
    def fails():
        raise AssertionError("asked")

    only(toy("unneeded", fails, is_broken=lambda: False))
    assert [(s.needed, s.applied, s.agree) for s in shim.install()] == [(False, False, False)]


def test_a_patch_for_a_missing_distribution_is_neither_probed_nor_applied(only):
    def fails():
        raise AssertionError("probed")

    only(toy("missing", fails, is_broken=fails, distribution="no-such-distribution"))
    (status,) = shim.install()
    assert (status.needed, status.applied, status.expected) == (None, False, False)
    assert status.reason == "no-such-distribution is not installed"


def test_uninstalling_refuses_over_somebody_elses_patch_and_stays_installed(only):
    only(toy("first", ours("ours")))
    statuses = shim.install()
    Target.value = "theirs"
    try:
        with pytest.raises(shim.PatchError, match=r"Target\.value is 'theirs'"):
            shim.uninstall()
        assert shim.status() is statuses
        assert Target.value == "theirs"
    finally:
        Target.value = "ours"
    shim.uninstall()
    assert Target.value == "upstream"


def test_a_probe_says_nothing(monkeypatch):
    """Upstream warns of what the toys of a probe are made to do, and the user has done none of it."""
    warns = functools.partial(warnings.warn, "toys", stacklevel=2)
    patch = SimpleNamespace(name="warns", distribution="peft", expected=False, is_broken=warns)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert install_module._decide(patch) == (None, "upstream is right here")
