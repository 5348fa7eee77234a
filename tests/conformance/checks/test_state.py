"""What the checks of state see, and what they take for no trace: failures that come out, and a model's own counters."""

import random

import pytest
import torch
from torch import nn

import shim
from conformance.case import Case
from conformance.checks import CHECKS
from conformance.examination import examine
from conformance.models import MODELS
from conformance.models.model import Model
from conformance.settings import Settings
from conformance.shim_switch import shim_installed
from conformance.verdict import Outcome

BERT = MODELS["bert"]
FAILED, REFUSED, SUCCEEDED = "failure_leaves_no_trace", "a_refused_call_leaves_no_trace", "success_leaves_no_trace"


@pytest.fixture(autouse=True)
def _shim():
    with shim_installed(True):
        yield


def ended(check, model=BERT):
    found = examine(model, CHECKS[check], Settings(examples=1, device="cpu"))
    return found.outcome, found.detail


def instead(monkeypatch, make):
    """Let the mixed call of a case be what `make(the real one)` returns."""
    monkeypatch.setattr(Case, "mixed", make(Case.mixed))


def test_no_failure_is_shown_where_no_call_is_served(monkeypatch):
    def refuse(case, names=None, inputs=None):
        raise shim.RefusedError("not by me")

    instead(monkeypatch, lambda real: refuse)
    assert ended(FAILED) == (Outcome.REFUSED, "not by me")


def swallowing(real):
    def mixed(case, names=None, inputs=None):
        try:
            return real(case, names, inputs)
        except ValueError:
            raise
        except BaseException as error:
            raise shim.RefusedError("something went wrong") from error

    return mixed


def test_the_failure_itself_comes_out(monkeypatch):
    instead(monkeypatch, swallowing)
    outcome, detail = ended(FAILED)
    assert outcome is Outcome.FAIL
    assert "_Planted was raised in a layer, but RefusedError('something went wrong') came out" in detail


def drawing(real):
    def mixed(case, names=None, inputs=None):
        random.random()
        return real(case, names, inputs)

    return mixed


@pytest.mark.parametrize("check", [FAILED, REFUSED, SUCCEEDED])
def test_numbers_drawn_from_pythons_generator_are_a_trace(monkeypatch, check):
    instead(monkeypatch, drawing)
    outcome, detail = ended(check)
    assert outcome is Outcome.FAIL
    assert "left a trace, but should leave none: Python's random generator" in detail


def test_names_that_should_be_refused_are_not_answered(monkeypatch):
    instead(monkeypatch, lambda real: lambda case, names=None, inputs=None: real(case))
    outcome, detail = ended(REFUSED)
    assert outcome is Outcome.FAIL
    assert "was answered, but should be refused" in detail


class Counting(nn.Module):
    """A model that counts its calls, and has a layer that none of them runs."""

    def __init__(self):
        super().__init__()
        self.up, self.down, self.unused = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(3, 3)
        self.calls = 0
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        self.calls += 1
        self.steps += 1
        return self.down(torch.tanh(self.up(x)))


def counting():
    def build():
        torch.manual_seed(0)
        return Counting()

    def inputs(rows, length, generator):
        return {"x": torch.randn(rows, 4, generator=generator)}

    return Model("counting", "", build, inputs, ("up", "down", "unused"), (), frozenset(), (4,))


@pytest.mark.parametrize("check", [FAILED, REFUSED, SUCCEEDED])
def test_a_models_own_counter_is_no_trace(check):
    assert ended(check, counting()) == (Outcome.PASS, "")


def test_a_counter_that_a_mixed_call_moves_twice_is_seen(monkeypatch):
    def twice(real):
        def mixed(case, names=None, inputs=None):
            real(case, names, inputs)
            return real(case, names, inputs)

        return mixed

    instead(monkeypatch, twice)
    outcome, detail = ended(SUCCEEDED, counting())
    assert outcome is Outcome.FAIL
    assert "but should once, not twice" in detail
