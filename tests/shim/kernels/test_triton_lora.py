"""Rows of many adapters in two Triton launches: as near to the truth as alone, to the bit their own, never stale.

On a machine without CUDA the kernels run in Triton's interpreter, which says nothing about speed.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from shim.kernels import triton_lora, triton_tables
from shim.kernels.layer import Memory, run_linear
from shim.kernels.triton_lora import blocks_for
from tests.shim.kernels.triton_rows import (
    DEVICE,
    DTYPES,
    NAMES,
    Layer,
    by_triton,
    check_rows,
    fused,
    inputs,
    table_of,
)

pytest.importorskip("triton", reason="Triton is not installed: pip install 'mixed-adapter-batches[gpu]'")
pytestmark = pytest.mark.usefixtures("served")


batches = st.lists(st.sampled_from([*NAMES, "__base__"]), min_size=1, max_size=9).filter(lambda n: set(n) & set(NAMES))
ranks = st.lists(st.sampled_from([1, 2, 8, 16, 17, 40]), min_size=4, max_size=4)
scalings = st.permutations([0.5, 1.0, 2.0, -3.0])
few = settings(max_examples=12)  # the interpreter takes milliseconds a program


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("base", ["same", "other"])
def test_rows_are_as_near_to_the_truth_as_alone(dtype, base):
    base_dtype = dtype if base == "same" else torch.float32 if dtype is not torch.float32 else torch.bfloat16

    @few
    @given(batches, ranks, scalings, st.sampled_from([1, 3, 17, 20]), st.sampled_from([1, 16, 23, 50]), st.data())
    def check(names, ranks, scalings, tokens, width, data):
        out = data.draw(st.sampled_from([1, 16, 37]), "out")
        layer = Layer(width, out, ranks, scalings, dtype, base_dtype)
        check_rows(layer, inputs(len(names), tokens, width, base_dtype), names)

    check()


@pytest.mark.parametrize("tokens", [1, 15, 16, 70])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_blocks_that_are_used_are_right(monkeypatch, tokens, dtype):
    monkeypatch.setattr(triton_lora, "blocks_for", blocks_for)
    layer = Layer(1100, 150, [8, 70, 3, 16], [1.0, 0.5, 2.0, -1.0], dtype)
    check_rows(layer, inputs(5, tokens, 1100, dtype), ["ann", "ben", "__base__", "ann", "cat"])


@pytest.mark.parametrize("dim", [0, 1, None])
def test_rows_may_be_along_any_dimension(dim):
    layer = Layer(23, 37, [2, 8, 17, 1], [1.0, 0.5, 2.0, -1.0])
    names = ["ann", "cat", "__base__", "ben", "ann", "dan"]
    x = inputs(6, 5, 23)
    expected = by_triton(layer, x, names)
    if dim is None:
        each = [name for name in names for _ in range(5)]
        found = by_triton(layer, x.view(2, 3, 5, 23), each, dim).view(6, 5, 37)
    else:
        found = by_triton(layer, x.movedim(0, dim), names, dim).movedim(dim, 0)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-5)
    assert (by_triton(layer, x, names[1:] + names[:1]) - expected).abs().amax((1, 2)).min() > 0.1


def test_strides_are_followed():
    layer = Layer(23, 37, [2, 8, 17, 1], [1.0, 0.5, 2.0, -1.0])
    names, x = ["ann", "cat", "ben"], inputs(3, 5, 23)
    expected = by_triton(layer, x, names)
    wide = torch.cat([x, x], -1)[..., :23]  # tokens far apart
    turned = x.transpose(1, 2).contiguous().transpose(1, 2)  # features far apart
    for given_x in (wide, turned):
        assert torch.equal(given_x, x)
        assert not given_x.is_contiguous()
        torch.testing.assert_close(by_triton(layer, given_x, names), expected, rtol=1e-6, atol=1e-5)
    once = by_triton(layer, x[:1].expand(3, 5, 23), names)
    torch.testing.assert_close(once[0], expected[0], rtol=1e-6, atol=1e-5)


# ---- rows are their own, to the bit


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_rows_bits_hang_on_nothing_else_in_the_batch(dtype):
    layer = Layer(50, 37, [2, 40, 17, 1], [1.0, 0.5, 2.0, -1.0], dtype)

    @settings(max_examples=6)
    @given(batches, st.sampled_from([1, 17]), st.randoms(use_true_random=False))
    def check(names, tokens, random):
        x = inputs(len(names), tokens, 50, dtype)
        base = layer.base_layer(x)
        product = fused(layer, x, table_of(names)).add(x, base.clone())
        assert torch.equal(product, fused(layer, x, table_of(names)).add(x, base.clone()))
        order = random.sample(range(len(names)), len(names))
        turned = fused(layer, x, table_of([names[i] for i in order])).add(x[order], base[order])
        assert torch.equal(turned, product[order])
        for row, name in enumerate(names):
            mine = slice(row, row + 1)
            if name == "__base__":
                assert torch.equal(product[mine], base[mine])
            else:
                assert torch.equal(fused(layer, x, table_of([name])).add(x[mine], base[mine].clone()), product[mine])

    check()


def test_blocks_hang_on_the_tokens_of_a_row_and_the_dtype_only():
    assert list(blocks_for.__annotations__) == ["tokens", "dtype", "return"]
    for dtype in DTYPES:
        assert blocks_for(1, dtype) == blocks_for(15, dtype) != blocks_for(16, dtype) == blocks_for(4096, dtype)


@pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")  # by numpy, in the interpreter
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("what", ["lora_A", "lora_B", "x"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_not_finite_stays_with_its_rows(value, what, dtype):
    layer = Layer(23, 37, [2, 8, 17, 1], [1.0, 0.5, 2.0, -1.0], dtype)
    names = ["ann", "ben", "ann", "__base__", "dan", "ben"]
    x = inputs(6, 3, 23, dtype)
    base = layer.base_layer(x)  # once: on a CPU its own bits hang on the batch

    def product():
        return fused(layer, x, table_of(names)).add(x, base.clone())

    before = product()
    if what == "x":
        x[1] = value
    else:
        getattr(layer, what)["ben"].weight.fill_(value)
    after = product()
    others = [0, 2, 3, 4] if what != "x" else [0, 2, 3, 4, 5]
    assert torch.equal(after[others], before[others])
    assert not torch.isfinite(after[1]).any()


# ---- it sees


def entries_changed(monkeypatch, change):
    """Let each adapter have what `change(its own entry, its neighbour's)` gives."""
    original = triton_lora.addresses

    def addresses(layer, entries, *args):
        own = list(entries.values())
        changed = [change(mine, other) for mine, other in zip(own, own[1:] + own[:1])]
        return original(layer, dict(zip(entries, changed)), *args)

    monkeypatch.setattr(triton_lora, "addresses", addresses)


def neighbours_scaling(monkeypatch):
    entries_changed(monkeypatch, lambda mine, other: (*mine[:3], other[3]))


def neighbours_weights(monkeypatch):
    entries_changed(monkeypatch, lambda mine, other: (*other[:3], mine[3]))


def tiles_changed(monkeypatch, change):
    original = triton_tables.tiles_of
    monkeypatch.setattr(triton_tables, "tiles_of", lambda *args: change(*original(*args)))


def neighbours_rows(monkeypatch):
    tiles_changed(monkeypatch, lambda order, tiles: (order.roll(1), tiles))


def last_row_of_an_adapter_missing(monkeypatch):
    tiles_changed(monkeypatch, lambda order, tiles: (order, tiles - torch.tensor([[0], [0], [1]], device=DEVICE)))


def a_row_of_the_next_adapter(monkeypatch):
    tiles_changed(monkeypatch, lambda order, tiles: (order, tiles + torch.tensor([[0], [0], [1]], device=DEVICE)))


def shares_of_the_width_missing(monkeypatch):
    original = torch.empty

    def empty(shape, **kwargs):  # the shares of h lie on each other: the last one is summed again and again
        return original((1, *shape[1:]), **kwargs).expand(shape) if len(shape) == 3 else original(shape, **kwargs)

    monkeypatch.setattr(triton_lora.torch, "empty", empty)


@pytest.mark.parametrize(
    "fault",
    [
        neighbours_scaling,
        neighbours_weights,
        neighbours_rows,
        last_row_of_an_adapter_missing,
        a_row_of_the_next_adapter,
        shares_of_the_width_missing,
    ],
    ids=lambda fault: fault.__name__,
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_wrong_kernel_is_seen(monkeypatch, fault, dtype):
    names = ["ann", "ben", "__base__", "dan", "ann", "cat"]
    fault(monkeypatch)
    layer = Layer(50, 37, [8, 8, 8, 8], [1.0, 0.5, 2.0, -1.0], dtype)
    with pytest.raises(AssertionError, match="should be"):
        check_rows(layer, inputs(6, 1, 50, dtype), names)


@pytest.mark.parametrize("fault", [None, neighbours_rows, last_row_of_an_adapter_missing, shares_of_the_width_missing])
def test_the_trial_product_is_right_and_sees_a_wrong_one(monkeypatch, fault):
    monkeypatch.setattr(triton_lora, "blocks_for", blocks_for)
    if fault is not None:
        fault(monkeypatch)
    assert triton_lora.tries(torch.device(DEVICE)) is (fault is None)


# ---- weights


def test_weights_are_read_where_they_are_at_every_call():
    layer = Layer(23, 37, [2, 8, 17, 1], [1.0, 0.5, 2.0, -1.0])
    names, x = ["ann", "ben", "__base__"], inputs(3, 2, 23)

    def called():
        check_rows(layer, x, names)
        (launch,) = fused(layer, x, table_of(names)).launches
        return launch.addresses, launch.addresses.clone()

    table, first = called()
    layer.lora_A["ann"].weight.mul_(2)
    assert torch.equal(called()[1], first)  # other values, in their place
    layer.lora_A["ann"].weight.data = layer.lora_A["ann"].weight.data.clone() * 2
    second = called()[1]
    assert not torch.equal(second, first)
    layer.scaling["ben"] = 7.0
    third = called()[1]
    assert not torch.equal(third, second)
    layer.lora_A["ben"], layer.lora_B["ben"] = (nn.Linear(*s, bias=False, device=DEVICE) for s in ((23, 5), (5, 37)))
    last_table, last = called()
    assert not torch.equal(last, third)
    assert last_table is table


def test_a_generate_looks_up_its_weights_once_and_keeps_their_memory():
    layer = Layer(23, 37, [2, 8, 17, 1], [1.0, 0.5, 2.0, -1.0])
    names, x, memory = ["ann", "ben", "__base__"], inputs(3, 2, 23), Memory(keeps_weights=True)
    table = table_of(names)
    first = run_linear(layer, x, 0, table, memory)
    (kept,) = memory.fused.values()
    held = layer.lora_A["ann"].weight.data_ptr()
    layer.lora_A["ann"].weight.data = torch.zeros(2, 23, device=DEVICE)
    assert held in [weight.data_ptr() for weight in kept.kept]
    assert torch.equal(run_linear(layer, x, 0, table, memory), first)  # a generate is of one adapter, to its end
    assert list(memory.fused.values()) == [kept]
    assert not torch.equal(by_triton(layer, x, names), first)
    assert torch.equal(run_linear(layer, x, 0, table, memory), first)  # whatever another call has found meanwhile


def test_a_model_that_is_gone_leaves_no_table():
    layer = Layer(8, 8, [2, 2, 2, 2], [1.0] * 4)
    by_triton(layer, inputs(2, 1, 8), ["ann", "ben"])
    assert layer in triton_tables._addresses
    before = len(triton_tables._addresses)
    del layer
    assert len(triton_tables._addresses) == before - 1


def test_two_launches_whatever_the_number_of_adapters(monkeypatch):
    from shim.kernels import triton_kernels

    launched = []

    class Counted:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            launched.append(self.kernel)
            return self.kernel[grid]

    for name in ("shrink", "expand"):
        monkeypatch.setattr(triton_kernels, name, Counted(getattr(triton_kernels, name)))
    layer = Layer(23, 37, [2, 8, 17, 1], [1.0, 0.5, 2.0, -1.0])
    for names in (["ann", "__base__"], [*NAMES, "__base__"]):
        launched.clear()
        by_triton(layer, inputs(len(names), 2, 23), names)
        assert len(launched) == 2
