"""Planted defects, each caught by the check that owns it: a suite that sees nothing proves nothing.

A fault is planted in the installed shim, one at a time; the check must fail with it, and pass without it.
"""

import contextvars

import pytest

import tests.faults.call_faults
import tests.faults.one_pass_faults
import tests.faults.split_faults
import tests.faults.training_faults
import tests.faults.weighted_faults  # noqa: F401
from conformance.checks import CHECKS
from conformance.examination import examine
from conformance.models import MODELS
from conformance.settings import Settings
from conformance.shim_switch import shim_installed
from conformance.verdict import Outcome
from tests.faults.planted import FAULTS, force


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_each_planted_fault_is_caught_by_the_check_that_owns_it(name, monkeypatch):
    plant, model, check, route = FAULTS[name]
    settings = Settings(examples=3)
    with shim_installed(True), monkeypatch.context() as forced:
        force(route, forced)
        clean = examine(MODELS[model], CHECKS[check], settings)
        assert clean.outcome is Outcome.PASS, clean.detail
        with monkeypatch.context() as patch:
            plant(patch)
            # In a context of its own: a fault may leave its selection there, and the tests after it would have it.
            verdict = contextvars.copy_context().run(examine, MODELS[model], CHECKS[check], settings)
    assert verdict.outcome is Outcome.FAIL, f"{name} went unseen: {verdict}"
    assert "reproduce(" in verdict.reproduction
    print(f"{name}: caught by {check} on {model}: {verdict.detail[:160]}")
