"""Which layers a model has, found again at each call, and held for no longer than the model."""

import gc
import weakref

import torch

from shim.modules import layers_in_evaluation
from tests.tiny_models import far_apart

NAMES = ("ann", "ben")
TOKENS = torch.arange(10).view(2, 5) + 3


def model():
    return far_apart(NAMES, ["q_proj", "v_proj"], layers=2)


def layers_of(model):
    layers, _ = layers_in_evaluation(model, set(NAMES))
    return layers


def test_layers_are_looked_up_by_name_again_where_they_are_others():
    found = model()
    first, again = (layers_of(found) for _ in range(2))
    assert [name for name, _ in first] == [name for name, _ in again]
    assert all(a is b for (_, a), (_, b) in zip(first, again))
    attention = found.get_base_model().model.layers[1].self_attn
    attention.q_proj = attention.v_proj
    now = layers_of(found)
    assert len(now) == 3
    attention.q_proj = attention.q_proj.base_layer
    assert all(layer is not None for _, layer in layers_of(found))


def test_a_model_whose_layers_hook_holds_it_goes_when_nobody_else_does(installed_shim):
    found = model()
    layer = found.get_base_model().model.layers[0].self_attn.q_proj
    layer.register_forward_hook(lambda module, args, output, held=found: None)
    with torch.no_grad():
        found(input_ids=TOKENS, adapter_names=list(NAMES))
    gone = weakref.ref(found)
    del found, layer
    gc.collect()
    assert gone() is None
