"""What the checks of training do where a model cannot be trained so."""

import pytest
import torch

from conformance.case import Case
from conformance.checks import training
from conformance.compare import Inapplicable
from conformance.models import MODELS
from conformance.scenarios import Adapter, Scenario
from conformance.shim_switch import shim_installed


@pytest.fixture
def case():
    model = MODELS["bert"]
    adapters = tuple(Adapter(name, targets=model.targets[:1]) for name in ("ann", "ben"))
    return Case(model, Scenario(adapters, ("ann", "ben"), model.lengths[0], "ann", seed=1), "cpu")


def fails(*_, **__):
    raise RuntimeError("planted")


def test_what_upstream_cannot_train_alone_is_not_asked_of_a_mixed_batch(case, monkeypatch):
    monkeypatch.setattr(torch.nn.Linear, "forward", fails)
    with shim_installed(True), pytest.raises(Inapplicable, match="PEFT does not train one adapter alone so: planted"):
        training.a_reentrant_checkpoint_keeps_the_names(case)


def test_what_fails_in_mixed_batches_alone_is_a_failure(case, monkeypatch):
    monkeypatch.setattr(training, "mixed_gradients", fails)
    with shim_installed(True), pytest.raises(RuntimeError, match="planted"):
        training.a_reentrant_checkpoint_keeps_the_names(case)
