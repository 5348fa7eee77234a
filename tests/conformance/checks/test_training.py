"""What the checks of training do where a model cannot be trained so."""

import pytest
import torch

from conformance.case import Case
from conformance.checks import CHECKS, training
from conformance.compare import Inapplicable
from conformance.examination import examine
from conformance.models import MODELS
from conformance.models.model import Model
from conformance.scenarios import Adapter, Scenario
from conformance.settings import Settings
from conformance.shim_switch import shim_installed
from conformance.verdict import Outcome


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


class DrawsByItself(torch.nn.Module):
    """A model whose forward drops values that no dropout module does."""

    def __init__(self):
        super().__init__()
        self.up = torch.nn.Linear(4, 3)

    def forward(self, x):
        return torch.nn.functional.dropout(self.up(x), 0.3, self.training)


def test_a_model_that_draws_by_itself_has_no_gradient_to_compare_with():
    def inputs(rows, length, generator):
        return {"x": torch.randn(rows, 4, generator=generator)}

    model = Model("draws", "", DrawsByItself, inputs, ("up",), (), frozenset(), (4,))
    with shim_installed(True):
        found = examine(model, CHECKS["each_adapter_gets_the_gradient_of_its_own_rows"], Settings(examples=1))
    assert found.outcome is Outcome.SKIPPED
    assert "one adapter trained alone twice has two gradients" in found.detail
