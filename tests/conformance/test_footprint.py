import peft
import pytest
import torch
from torch import nn

from conformance.compare import Mismatch
from conformance.footprint import differences, expect_unchanged, footprint


@pytest.fixture
def model():
    config = peft.LoraConfig(r=1, target_modules=["0"])
    wrapped = peft.get_peft_model(nn.Sequential(nn.Linear(2, 2), nn.Dropout()), config, adapter_name="ann")
    wrapped.add_adapter("ben", config)
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
