import random

import numpy
import peft
import pytest
import torch
from torch import nn

from conformance.compare import Mismatch
from conformance.footprint import differences, expect_moved_once, expect_unchanged, footprint, moved_by


@pytest.fixture
def model():
    config = peft.LoraConfig(r=1, target_modules=["0"])
    wrapped = peft.get_peft_model(nn.Sequential(nn.Linear(2, 2), nn.Dropout()), config, adapter_name="ann")
    wrapped.add_adapter("ben", config)
    wrapped.base_model.model[1].kept, wrapped.base_model.model[1].states = [1], {"last": torch.zeros(2)}
    return wrapped.eval()


def layer(model):
    return model.base_model.model[0]


TRACES = {
    "a hook": lambda model: layer(model).register_forward_pre_hook(lambda *a: None),
    "an output hook": lambda model: layer(model).register_forward_hook(lambda *a: None),
    "the active adapter": lambda model: layer(model).set_adapter("ben"),
    "adapters disabled": lambda model: layer(model).enable_adapters(False),
    "a merged adapter": lambda model: layer(model).merged_adapters.append("ann"),
    "training mode": lambda model: layer(model).train(),
    "a weight": lambda model: layer(model).base_layer.weight.data.view(-1)[0].add_(1e-3),
    "the sign of a zero": lambda model: layer(model).lora_B["ann"].weight.data.neg_(),
    "a gradient": lambda model: layer(model)(torch.ones(1, 2)).sum().backward(),
    "requires_grad": lambda model: layer(model).base_layer.weight.requires_grad_(True),
    "an attribute": lambda model: setattr(layer(model), "left_behind", 1),
    "the random generator": lambda model: torch.rand(1),
    "Python's generator": lambda model: random.random(),
    "numpy's generator": lambda model: numpy.random.rand(),
    "a number": lambda model: layer(model).scaling.update(ann=3.0),
    "a list": lambda model: model.base_model.model[1].kept.append(2),
    "a tensor in a dict": lambda model: model.base_model.model[1].states["last"].add_(1.0),
    "another module": lambda model: layer(model).add_module("more", nn.Identity()),
}


def test_a_plain_call_leaves_no_footprint(model):
    before = footprint(model)
    with torch.no_grad():
        model(torch.ones(1, 2))
    assert differences(before, footprint(model)) == []
    expect_unchanged(before, footprint(model), "a plain call")


@pytest.mark.parametrize("trace", sorted(TRACES))
def test_every_kind_of_trace_is_seen(model, trace):
    before = footprint(model)
    TRACES[trace](model)
    with pytest.raises(Mismatch, match="the call left a trace, but should leave none: "):
        expect_unchanged(before, footprint(model), "the call")


class Counting(nn.Module):
    """Counts its calls, in a buffer and in a list."""

    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.seen = []

    def forward(self, x):
        self.steps += 1
        self.seen.append(len(x))
        return x


def test_what_a_plain_call_moves_is_no_trace_of_another():
    model = Counting()
    moving = moved_by(model, lambda: model(torch.ones(1)))
    assert moving == {"steps: value", "the model: seen"}
    before = footprint(model)
    model(torch.ones(1))
    expect_unchanged(before, footprint(model), "the call", moving)
    model.left_behind = 1
    with pytest.raises(Mismatch, match="left_behind"):
        expect_unchanged(before, footprint(model), "the call", moving)


def test_what_was_moved_twice_is_seen():
    steps, model = [], Counting()
    for _ in range(2):
        model(torch.ones(1))
        steps.append(footprint(model))
    expect_moved_once(*steps, steps[0], "the call")
    with pytest.raises(Mismatch, match=r"the call moved steps: value on to 2, but should once, not twice"):
        expect_moved_once(*steps, steps[1], "the call")
