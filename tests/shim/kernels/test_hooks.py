"""What somebody put on the modules of a LoRA layer is done, and what he holds of them stays as it is."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from shim.kernels import layer as kernels
from shim.kernels.layer import Memory, run_linear, run_modules
from tests.shim.kernels.lora_layers import OUT, WIDTH, alone, inputs, lora_layer, table_of


@torch.no_grad()
def assert_own_rows(layer, way=lambda: Memory(keeps_weights=False), names=("ann", "__base__", "ben", "ann")):
    """Check that rows are their own, that adapters can be told apart, and that modules by themselves do the same."""
    x = inputs(names, 0, 2)
    expected = alone(layer, x, 0, names)
    base = alone(layer, x, 0, ["__base__"] * len(names))
    assert all((expected - base)[row].abs().max() > 1e-3 for row, name in enumerate(names) if name != "__base__")
    table = table_of(names)
    memory = way()
    for y in (run_linear(layer, x, 0, table, memory), run_linear(layer, x, 0, table, memory)):
        torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(run_modules(layer, x, 0, table), expected, rtol=1e-12, atol=1e-12)


STORED = torch.linspace(-1, 1, 4 * 2 * OUT, dtype=torch.float64).view(4, 2, OUT)


def returns_what_is_stored(base):
    base.register_forward_hook(lambda module, args, output: STORED[: len(output)])


def returns_an_expanded_constant(base):
    base.register_forward_hook(lambda module, args, output: output.new_ones(1).expand_as(output))


def stores_by_a_forward_of_its_own(base):
    base.forward = lambda x: STORED[: len(x)]


def stores_by_its_class(base):
    base.__class__ = type("Storing", (nn.Linear,), {"forward": lambda module, x: STORED[: len(x)]})


@pytest.mark.parametrize(
    "change",
    [returns_what_is_stored, returns_an_expanded_constant, stores_by_a_forward_of_its_own, stores_by_its_class],
)
def test_what_the_base_layer_hands_out_stays_as_it_is(linear, way, change):
    layer = copy.deepcopy(linear)
    change(layer.base_layer)
    before = STORED.clone()
    assert_own_rows(layer, way)
    assert torch.equal(STORED, before)


def test_a_base_layer_that_gives_back_its_input(way):
    layer = lora_layer(nn.Linear(WIDTH, WIDTH))
    layer.base_layer.register_forward_hook(lambda module, args, output: args[0])
    assert_own_rows(layer, way)


@pytest.mark.parametrize("where", ["the layer", "the layer, once", "all modules"])
def test_what_a_hook_captures_is_the_base_layers_output(linear, way, where):
    layer, captured = copy.deepcopy(linear), []

    def capture(module, args, output):
        if module is layer.base_layer:
            captured.append(output)
            if where == "the layer, once":
                handle.remove()

    register = nn.modules.module.register_module_forward_hook if where == "all modules" else None
    handle = (register or layer.base_layer.register_forward_hook)(capture)
    names = ["ann", "ben", "cat", "ann"]
    x = inputs(names, 0, 2)
    with torch.no_grad():
        for run in (run_linear, run_modules):
            run(layer, x, 0, table_of(names), *([way()] if run is run_linear else []))
        handle.remove()
        expected = layer.base_layer(x)
    assert len(captured) == (1 if where == "the layer, once" else 2)
    assert all(torch.equal(output, expected) for output in captured)


def test_torchs_own_layers_are_added_to_in_place(linear):
    assert kernels._makes_anew(linear.base_layer)
    assert kernels._makes_anew(nn.Embedding(2, 2))
    assert not kernels._makes_anew(nn.Identity())


def hook_on_dropout(layer):
    layer.lora_dropout["ann"].register_forward_hook(lambda module, args, output: output * 0.5)


def pre_hook_on_dropout(layer):
    layer.lora_dropout["ann"].register_forward_pre_hook(lambda module, args: (args[0] * 0.5,))


def another_module(layer):
    layer.lora_dropout["ann"] = nn.LayerNorm(WIDTH).double().eval()


def another_forward(layer):
    layer.lora_dropout["ann"].forward = lambda x: x * 0.5


def hook_of_all_modules(layer):
    down = layer.lora_A["ann"]
    layer.handle = nn.modules.module.register_module_forward_hook(
        lambda module, args, y: y * 2 if module is down else y
    )


def pruned(layer):
    prune.l1_unstructured(layer.lora_A["ann"], "weight", amount=0.5)


def pruned_bias(layer):
    layer.lora_B["ann"].bias = nn.Parameter(torch.ones(OUT).double())
    prune.l1_unstructured(layer.lora_B["ann"], "bias", amount=0.5)


def weight_norm(layer):
    nn.utils.weight_norm(layer.lora_A["ann"])
    layer.lora_A["ann"].weight_g.data.mul_(2)


def spectral_norm(layer):
    nn.utils.spectral_norm(layer.lora_B["ann"]).eval()


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("change", [
    hook_on_dropout, pre_hook_on_dropout, another_module, another_forward, hook_of_all_modules,
    pruned, pruned_bias, weight_norm, spectral_norm,
])  # fmt: skip
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_what_is_done_to_an_adapters_modules_is_done(way, change, dropout):
    layer = lora_layer(nn.Linear(WIDTH, OUT), lora_dropout=dropout)
    with torch.no_grad():
        before = alone(layer, inputs(["ann"], 0, 2), 0, ["ann"])
        change(layer)
        try:
            assert (alone(layer, inputs(["ann"], 0, 2), 0, ["ann"]) - before).abs().max() > 1e-3
            assert_own_rows(layer, way)
        finally:
            if hasattr(layer, "handle"):
                layer.handle.remove()
