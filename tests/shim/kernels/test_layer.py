"""Each row of a LoRA layer is what the layer's own forward gives it under its adapter, by either kernel."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from shim.kernels import layer as kernels
from shim.kernels.layer import Memory, run_linear, run_modules
from shim.kernels.lora import Bank, Segments
from shim.kernels.weights import weights_by_rank
from tests.shim.kernels.lora_layers import NAMES, OUT, WIDTH, alone, inputs, lora_layer, table_of

rows_of = st.lists(st.sampled_from([*NAMES, "__base__"]), min_size=2, max_size=9).filter(
    lambda names: set(names) - {"__base__"}
)


@pytest.mark.parametrize("grad", [False, True])
def test_rows_are_their_own(linear, way, grad):
    @given(rows_of, st.sampled_from([0, 1]), st.sampled_from([1, 3, 12]))
    def check(names, dim, tokens):
        x = inputs(names, dim, tokens)
        memory = way()
        with torch.set_grad_enabled(grad):
            for _ in range(2):  # a second call takes what the first one kept
                y = run_linear(linear, x, dim, table_of(names), memory)
        torch.testing.assert_close(y, alone(linear, x, dim, names), rtol=1e-12, atol=1e-12)

    check()


def test_all_row_dimensions_as_one(linear, way):
    names = ["ann", "cat", "__base__", "ben", "ann", "dan"]
    x = inputs(names, 0, 1)
    y = run_linear(linear, x.view(2, 3, WIDTH), None, table_of(names), way())
    torch.testing.assert_close(y.view(6, 1, OUT), alone(linear, x, 0, names), rtol=1e-12, atol=1e-12)


def test_a_linear_layers_modules_do_the_same(linear):
    names = ["ann", "cat", "__base__", "ben"]
    for dim in (0, 1):
        x = inputs(names, dim, 3)
        y = run_modules(linear, x, dim, table_of(names))
        torch.testing.assert_close(y, alone(linear, x, dim, names), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("weight", ["lora_A", "lora_B"])
def test_weights_that_are_not_finite_stay_with_their_rows(linear, way, value, weight):
    layer = copy.deepcopy(linear)
    getattr(layer, weight)["ben"].weight.data.fill_(value)
    names = ["ann", "ben", "ann", "__base__", "dan", "dan"]
    y = run_linear(layer, inputs(names, 0, 2), 0, table_of(names), way())
    assert torch.isfinite(y[[0, 2, 3, 4, 5]]).all()
    assert not torch.isfinite(y[1]).all()


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_rows_that_are_not_finite_stay_alone(linear, way, value):
    names = ["ann", "ann", "ben", "ann", "dan", "dan"]
    x = inputs(names, 0, 2)
    x[1] = value
    y = run_linear(linear, x, 0, table_of(names), way())
    assert torch.isfinite(y[[0, 2, 3, 4, 5]]).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("adapters", ["as the base", "in float32"])
def test_low_precision_is_as_near_to_the_truth_as_alone(way, dtype, adapters):
    if dtype is torch.float16 and torch.__version__ < "2.2":
        pytest.skip("this torch has no half products on the CPU")
    layer = lora_layer(nn.Linear(WIDTH, OUT), dtype)
    if adapters == "in float32":
        for name in ("lora_A", "lora_B"):
            getattr(layer, name).float()
    names = ["ann", "cat", "__base__", "ben", "ann"]
    x = inputs(names, 0, 3, dtype)
    exact = alone(copy.deepcopy(layer).double(), x.double(), 0, names)
    error = (run_linear(layer, x, 0, table_of(names), way()).double() - exact).abs().max()
    own = (alone(layer, x, 0, names).double() - exact).abs().max()
    assert error <= 2 * own + torch.finfo(dtype).eps


def test_autocast_is_that_of_the_layers_own_forward(way):
    layer = lora_layer(nn.Linear(WIDTH, OUT), torch.float32)
    names = ["ann", "cat", "__base__", "ben", "ann"]
    x = inputs(names, 0, 3, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = run_linear(layer, x, 0, table_of(names), way())
        expected = alone(layer, x, 0, names)
    assert y.dtype == expected.dtype
    torch.testing.assert_close(y.float(), expected.float(), rtol=0.05, atol=0.05)


@torch.enable_grad()
def test_gradients_are_those_of_the_rows_alone(linear, way):
    names = ["ann", "cat", "__base__", "ben", "ann"]
    x = inputs(names, 0, 3).requires_grad_()
    weights = [linear.lora_A["ann"].weight, linear.lora_B["cat"].weight]
    for weight in weights:
        weight.requires_grad_()
    run_linear(linear, x, 0, table_of(names), way()).square().sum().backward()
    found = [value.grad.clone() for value in (x, *weights)]
    for value in (x, *weights):
        value.grad = None
    layer_output = []
    for row, name in enumerate(names):
        down, up, scaling = (linear.lora_A, linear.lora_B, linear.scaling) if name != "__base__" else ({}, {}, {})
        base = linear.base_layer(x[row])
        layer_output.append(base + up[name](down[name](x[row])) * scaling[name] if name in scaling else base)
    torch.stack(layer_output).square().sum().backward()
    for value, gradient in zip((x, *weights), found):
        torch.testing.assert_close(gradient, value.grad)
        value.grad = None


# ---- which kernel, and what is kept


def products(layer, names, tokens, memory):
    return list(kernels._products(layer, tokens, table_of(names), memory))


def test_small_weights_are_copied_and_large_ones_are_not():
    small = lora_layer(nn.Linear(WIDTH, OUT), ranks=(2, 2, 2, 2))
    assert isinstance(products(small, ["ann", "ben"], 1, Memory(keeps_weights=False))[0], Bank)
    large = lora_layer(nn.Linear(400, 400), ranks=(64, 64, 64, 64))
    assert isinstance(products(large, ["ann", "ben"], 1, Memory(keeps_weights=False))[0], Segments)
    assert isinstance(products(large, ["ann", "ben"], 100, Memory(keeps_weights=False))[0], Bank)
    assert isinstance(products(small, ["ann", "__base__"], 1, Memory(keeps_weights=False))[0], Segments)


def test_a_generate_keeps_weights_for_its_tokens_and_not_for_its_prompt_nor_a_graph(linear):
    memory = Memory(keeps_weights=True)
    table = table_of(["ann", "ben"])
    assert list(kernels._products(linear, 1, table, memory))
    assert not memory.banks, "copies that belong to a graph are kept"
    with torch.no_grad():
        assert list(kernels._products(linear, 100, table, memory))
        assert not memory.banks
        first = kernels._products(linear, 1, table, memory)
        assert kernels._products(linear, 1, table, memory) is first


def test_what_is_more_than_a_weight_is_called(linear):
    changes = {
        "a hook": lambda layer: layer.lora_A["ann"].register_forward_hook(lambda *_: None),
        "a replaced forward": lambda layer: setattr(
            layer.lora_B["ann"], "forward", lambda x: x.new_ones(*x.shape[:-1], OUT)
        ),
        "a bias": lambda layer: setattr(layer.lora_B["ann"], "bias", nn.Parameter(torch.ones(OUT).double())),
        "a parametrization": lambda layer: nn.utils.parametrizations.orthogonal(layer.lora_A["ann"]),
    }
    for change in changes.values():
        layer = copy.deepcopy(linear)
        assert weights_by_rank(layer, ["ann", "ben"])
        change(layer)
        assert weights_by_rank(layer, ["ann", "ben"]) is None
        names = ["ann", "ben", "ann"]
        x = inputs(names, 0, 1)
        y = run_linear(layer, x, 0, table_of(names), Memory(keeps_weights=True))
        assert y.shape == (3, 1, OUT)


def test_what_is_called_is_right(linear):
    layer = copy.deepcopy(linear)
    layer.lora_B["ann"].bias = nn.Parameter(torch.ones(OUT).double())
    names = ["ann", "__base__", "ben", "ann"]
    x = inputs(names, 0, 2)
    y = run_linear(layer, x, 0, table_of(names), Memory(keeps_weights=False))
    torch.testing.assert_close(y, alone(layer, x, 0, names), rtol=1e-12, atol=1e-12)


# ---- other layers


@pytest.mark.parametrize(
    ("inner", "shape"),
    [
        (nn.Conv1d(WIDTH, OUT, 2), (WIDTH, 7)),
        (nn.Conv2d(WIDTH, OUT, 2, stride=2), (WIDTH, 4, 4)),
        (nn.Conv3d(WIDTH, OUT, 1), (WIDTH, 2, 2, 2)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_convolutions(inner, shape):
    try:
        layer = lora_layer(inner)
    except ValueError:
        pytest.skip("this PEFT has no such layer")
    names = ["ann", "cat", "__base__", "ben", "ann"]
    x = torch.randn(5, *shape).double()
    y = run_modules(layer, x, 0, table_of(names))
    torch.testing.assert_close(y, alone(layer, x, 0, names), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("settings", [{}, {"padding_idx": 1}])
def test_embeddings(dim, settings):
    layer = lora_layer(nn.Embedding(9, OUT, **settings))
    names = ["ann", "cat", "__base__", "ben", "ann"]
    x = torch.arange(15).view(5, 3).remainder(9).movedim(0, dim)
    y = run_modules(layer, x, dim, table_of(names))
    torch.testing.assert_close(y, alone(layer, x, dim, names), rtol=1e-12, atol=1e-12)
