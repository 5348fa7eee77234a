"""A device that cannot be used is wrong usage, told before anything is built on it."""

import pytest
import torch

import conformance
from conformance.__main__ import USAGE, main
from conformance.checks import CHECKS
from conformance.examination import examine
from conformance.models import MODELS
from conformance.selection import UnknownChoiceError
from conformance.settings import Settings
from conformance.subject import device_named
from conformance.verdict import Outcome

HERE = "tests.conformance.own_models"
NONE_THERE = f"cuda:{torch.cuda.device_count()}"


def test_a_device_that_is_there_is_taken(monkeypatch):
    assert device_named("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_named("auto") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_named("auto") == "cuda"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [device_named(name) for name in ("cuda", "cuda:1")] == ["cuda", "cuda:1"]


@pytest.mark.parametrize("name", [NONE_THERE, "nonsense", "meta", ""])
def test_a_device_that_is_not_is_said(name):
    with pytest.raises(UnknownChoiceError, match=f"^device '{name}' cannot be used here.* Name another"):
        device_named(name)


@pytest.mark.parametrize("name", [NONE_THERE, "nonsense"])
def test_it_is_wrong_usage_of_the_command(capsys, name):
    assert main(["run", "--models", "mlp", "--checks", "R1", "--device", name]) == USAGE
    assert main(["check", f"{HERE}:module", "--checks", "R1", "--device", name]) == USAGE
    shown = capsys.readouterr()
    assert shown.err.count(f"conformance: device '{name}' cannot be used here") == 2
    assert not shown.out


def test_it_is_wrong_usage_in_tests():
    with pytest.raises(UnknownChoiceError, match="device 'nonsense'"):
        conformance.check_model(f"{HERE}:module", checks="R1", device="nonsense")


def test_a_check_that_gets_so_far_could_not_examine():
    model, check = next(iter(MODELS.values())), CHECKS["each_row_equals_its_own_run"]
    verdict = examine(model, check, Settings(device="nonsense", examples=1))
    assert verdict.outcome is Outcome.ERROR
    assert verdict.detail.startswith("device 'nonsense' cannot be used here")
