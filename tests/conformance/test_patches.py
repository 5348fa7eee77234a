"""Each patch that is needed here is seen: its check is red without it, and green with all of them."""

import pytest
import torch
import transformers
from packaging.version import Version

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


# Without the shim their checks are red as all others' are; without the patch alone, the rest of the shim still serves.
SERVED_BY_THE_REST = {"forward_hooks_with_kwargs"}  # only upstream's own mixed calls and the one-pass generate hook so
if Version(torch.__version__) < Version("2.12"):
    # Without the patch alone generate compiles through the shim's own layers: dynamo before 2.9 breaks its graph at
    # each and looks up the row's adapter in every call, and that of 2.11 on python 3.12 may run out of stack.
    SERVED_BY_THE_REST.add("compiled_generate")
if Version(transformers.__version__) < Version("5"):
    SERVED_BY_THE_REST.add("saved_modules_attributes")  # before, loading asks for no attribute


@pytest.mark.parametrize("patch", [p for p in catalogue() if p.expected], ids=lambda patch: patch.name)
def test_without_the_patch_its_check_goes_red(patch, monkeypatch):
    shim.install()
    found, said = outcomes(patch.check)
    if found == {Outcome.SKIPPED}:
        pytest.skip(said[0])
    assert found <= {Outcome.PASS, Outcome.SKIPPED}, said
    shim.uninstall()
    if patch.name not in SERVED_BY_THE_REST:
        monkeypatch.setenv("SHIM_DISABLE", patch.name)
        shim.install()
    found, said = outcomes(patch.check)
    assert Outcome.FAIL in found, said
