"""Each patch that is needed here is seen: without it, and with all others, the check that it names goes red."""

import pytest

import shim
from conformance.checks import CHECKS
from conformance.examination import examine
from conformance.models import MODELS
from conformance.settings import Settings
from conformance.verdict import Outcome
from shim.patches import catalogue

SHOWN = ("integers", "llama")
SETTINGS = Settings(examples=4)


@pytest.fixture(autouse=True)
def _uninstalled():
    shim.uninstall()
    yield
    shim.uninstall()


def outcomes(check):
    verdicts = [
        examine(MODELS[name], CHECKS[check], SETTINGS) for name in SHOWN if CHECKS[check].applies_to(MODELS[name])
    ]
    return {verdict.outcome for verdict in verdicts}, [verdict.detail for verdict in verdicts]


@pytest.mark.parametrize("patch", [p for p in catalogue() if p.expected], ids=lambda patch: patch.name)
def test_without_the_patch_its_check_goes_red(patch, monkeypatch):
    shim.install()
    found, said = outcomes(patch.check)
    if found == {Outcome.SKIPPED}:
        pytest.skip(said[0])
    assert found <= {Outcome.PASS, Outcome.SKIPPED}, said
    shim.uninstall()
    monkeypatch.setenv("SHIM_DISABLE", patch.name)
    shim.install()
    found, said = outcomes(patch.check)
    assert Outcome.FAIL in found, said
