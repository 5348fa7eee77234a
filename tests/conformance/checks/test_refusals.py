"""What the checks of refusals take for an answer."""

import pytest

import shim
from conformance.case import Case
from conformance.checks import CHECKS
from conformance.examination import examine
from conformance.models import MODELS
from conformance.settings import Settings
from conformance.shim_switch import shim_installed
from conformance.verdict import Outcome


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (shim.RefusedError("output 'sim' mixes samples"), Outcome.REFUSED),
        (ValueError("adapter 'ann' is of IA3"), Outcome.PASS),
        (ValueError("no"), Outcome.FAIL),
    ],
)
def test_another_tuners_names_may_be_refused_for_any_reason_that_is_said(monkeypatch, error, outcome):
    def mixed(case, names=None, inputs=None):
        raise error

    with shim_installed(True):
        monkeypatch.setattr(Case, "mixed", mixed)
        found = examine(MODELS["bert"], CHECKS["no_tuner_ignores_the_names"], Settings(examples=1, device="cpu"))
    assert found.outcome is outcome, found.detail
