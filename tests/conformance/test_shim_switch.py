"""The switch installs the shim for a block and no longer, and sees a shim that does not restore."""

from dataclasses import replace

import peft
import pytest

import shim
from conformance.shim_switch import never_split, refusals, reinstalling_faults, shim_installed, shim_uninstalled
from shim import policy


def is_installed():
    return any(status.applied for status in shim.status())


def test_the_shim_is_there_for_the_block_only():
    with shim_installed(True):
        assert is_installed()
    assert not is_installed()
    with shim_installed(False):
        assert not is_installed()


def test_a_shim_that_was_there_before_stays():
    shim.install()
    try:
        with shim_installed(True):
            pass
        assert is_installed()
    finally:
        shim.uninstall()


@pytest.mark.parametrize("before", [True, False])
def test_a_shim_that_is_taken_out_comes_back_and_one_that_was_not_there_does_not(before):
    with shim_installed(before):
        with shim_uninstalled():
            assert not is_installed()
        assert is_installed() is before
    assert not is_installed()


def test_nothing_is_split_in_the_block_only():
    with shim_installed(True):
        shim.install(mixed_outputs=["logits_per_image"])
        before = policy.chosen()
        with never_split():
            assert policy.chosen() == replace(before, fallback="refuse")
        assert policy.chosen() == before


def test_the_shim_goes_when_the_block_raises():
    with pytest.raises(LookupError), shim_installed(True):
        raise LookupError
    assert not is_installed()


@pytest.mark.parametrize("before", [True, False])
def test_a_good_shim_has_no_faults_and_is_left_as_it_was(before):
    with shim_installed(before):
        assert reinstalling_faults() == []
        assert is_installed() is before


def test_a_shim_that_replaces_more_the_second_time_is_seen(monkeypatch):
    install, calls = shim.install, []

    def again():
        calls.append(install())
        if len(calls) == 2:
            monkeypatch.setattr(peft.PeftModel, "forward", lambda self: None)

    monkeypatch.setattr(shim, "install", again)
    monkeypatch.setattr(shim, "uninstall", lambda: None)
    try:
        faults = reinstalling_faults()
    finally:
        monkeypatch.undo()
        shim.uninstall()
    assert "installing twice replaces PeftModel.forward" in faults


def test_a_shim_that_does_not_restore_is_seen(monkeypatch):
    monkeypatch.setattr(shim, "uninstall", lambda: None)
    faults = reinstalling_faults()
    monkeypatch.undo()
    shim.uninstall()
    assert "uninstalling leaves PeftModel.forward changed" in faults


def test_a_shim_that_does_nothing_is_seen(monkeypatch):
    monkeypatch.setattr(shim, "install", lambda: None)
    assert "installing replaces nothing" in reinstalling_faults()


def test_only_a_refusal_counts_as_one():
    assert issubclass(shim.RefusedError, refusals())
    assert not issubclass(shim.UnknownAdapterError, refusals())
