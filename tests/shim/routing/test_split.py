"""The split route on modules that do all sorts of things to their batch: exact, or refused by name."""

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import shim

pytestmark = pytest.mark.usefixtures("split_only")

NAMES = ["ann", "__base__", "ben", "ann"]
X = torch.randn(4, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
Pair = namedtuple("Pair", "first second")


@dataclass
class Answer:
    rows: torch.Tensor
    name: str = "answer"


def plain(toy, x):
    return toy.linear(x)


def fold(toy, x):
    return toy.linear(x.reshape(-1, 3, 4)).reshape(x.shape)


def time_major(toy, x):
    return toy.linear(x.transpose(0, 1)).transpose(0, 1)


def flatten(toy, x):
    return toy.linear(x.reshape(1, -1, 4)).reshape(x.shape)


def tile(toy, x):
    doubled = toy.linear(torch.cat([x, x]))
    return doubled[: len(x)] + doubled[len(x) :]


def sort_and_unsort(toy, x):
    order = x[:, 0, 0].argsort()
    return toy.linear(x[order])[order.argsort()]


def numpy_round_trip(toy, x):
    return toy.linear(torch.from_numpy(x.numpy().copy()))


def with_attention(toy, x):
    rows = toy.linear(x)
    return torch.softmax(rows @ rows.transpose(1, 2), -1) @ rows


EXACT = [plain, fold, time_major, flatten, tile, sort_and_unsort, numpy_round_trip, with_attention]


def batch_mean(toy, x):
    return toy.linear(x) - x.mean(0)


def roll_over_the_batch(toy, x):
    return toy.linear(x.roll(1, 0))


def attention_over_the_batch(toy, x):
    rows = toy.linear(x[:, 0])
    return torch.softmax(rows @ rows.T, -1) @ rows


def top_k_over_the_batch(toy, x):
    rows = toy.linear(x)
    keep = x.sum((1, 2)).topk(max(1, len(x) // 2)).indices
    mask = torch.zeros(len(x), dtype=torch.bool)
    mask[keep] = True
    return rows * mask[:, None, None]


def position_in_the_batch(toy, x):
    return toy.linear(x) + torch.arange(len(x), dtype=x.dtype)[:, None, None]


def count_in_the_batch(toy, x):
    return toy.linear(x) / len(x)


def flip_by_numpy(toy, x):
    import numpy

    return toy.linear(torch.from_numpy(numpy.flip(x.numpy(), 0).copy()))


MIXING = [
    batch_mean,
    roll_over_the_batch,
    attention_over_the_batch,
    top_k_over_the_batch,
    position_in_the_batch,
    count_in_the_batch,
    flip_by_numpy,
]


@pytest.mark.parametrize("body", EXACT)
def test_each_row_is_its_own_adapters_whatever_is_done_to_the_batch(adapted, alone, body):
    model = adapted(body)
    mixed = model(X, adapter_names=NAMES)
    for row, name in enumerate(NAMES):
        expected = {other: alone(model, other, X)[row] for other in set(NAMES)}
        torch.testing.assert_close(mixed[row], expected[name], rtol=1e-9, atol=1e-12)
        for other in set(NAMES) - {name}:
            assert (expected[other] - expected[name]).abs().max() > 1e-3


@pytest.mark.parametrize("body", MIXING)
def test_a_model_that_mixes_samples_is_refused(adapted, body):
    model = adapted(body)
    with pytest.raises(shim.RefusedError, match=r"output 'output'.*(samples|sample).*one adapter a call"):
        model(X, adapter_names=NAMES)


@given(data=st.data(), seed=st.integers(0, 2**16))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_rows_come_back_in_order_for_any_assignment(data, seed):
    import peft

    names = data.draw(st.lists(st.sampled_from(["ann", "__base__", "ben"]), min_size=1, max_size=6))
    shim.install()
    try:
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            config = peft.LoraConfig(r=1, target_modules=["0"], init_lora_weights=False)
            model = peft.get_peft_model(torch.nn.Sequential(torch.nn.Linear(3, 3)), config, adapter_name="ann")
            model.add_adapter("ben", config)
            model = model.double().eval()
            x = torch.randn(len(names), 3, dtype=torch.float64)
            mixed = model(x, adapter_names=names)
            for row, name in enumerate(names):
                torch.testing.assert_close(mixed[row], model(x[row : row + 1], adapter_names=[name])[0])
    finally:
        shim.uninstall()


# ---- outputs of every structure


def test_nested_outputs_keep_their_structure(adapted, alone):
    def body(toy, x):
        rows = toy.linear(x)
        return {
            "pair": Pair(rows, rows.transpose(0, 1)),
            "list": [rows.sum(1), (rows.argmax(-1), None)],
            "answer": Answer(rows[:, 0]),
            "depth": 3,
            "samples": len(x),
            "positions": torch.arange(5),
        }

    model = adapted(body)
    mixed = model(X, adapter_names=NAMES)
    assert mixed["samples"] == 4
    assert mixed["depth"] == 3
    assert torch.equal(mixed["positions"], torch.arange(5))
    assert mixed["answer"].name == "answer"
    assert mixed["list"][1][1] is None
    for row, name in enumerate(NAMES):
        own = alone(model, name, X)
        torch.testing.assert_close(mixed["pair"].first[row], own["pair"].first[row])
        torch.testing.assert_close(mixed["pair"].second[:, row], own["pair"].second[:, row])
        torch.testing.assert_close(mixed["list"][0][row], own["list"][0][row])
        assert torch.equal(mixed["list"][1][0][row], own["list"][1][0][row])
        torch.testing.assert_close(mixed["answer"].rows[row], own["answer"].rows[row])


@pytest.mark.parametrize("tiled", [False, True])
def test_several_rows_per_sample_are_found_in_blocks_and_in_tiles(adapted, alone, tiled):
    def body(toy, x):
        rows = toy.linear(x)
        return (rows.transpose(0, 1) if tiled else rows).reshape(-1, 4)

    model = adapted(body)
    mixed = model(X, adapter_names=NAMES)
    shape = (6, 4, 4) if tiled else (4, 6, 4)
    for row, name in enumerate(NAMES):
        own = alone(model, name, X).reshape(shape)
        got = mixed.reshape(shape)
        assert torch.equal(got[:, row], own[:, row]) if tiled else torch.equal(got[row], own[row])


def test_rows_too_alike_to_place_are_refused(adapted):
    model = adapted(lambda toy, x: toy.linear(x).reshape(-1, 4))
    with pytest.raises(shim.RefusedError, match="too alike"):
        model(torch.ones(4, 2, 4, dtype=torch.float64), adapter_names=NAMES)


def test_a_number_of_rows_equal_to_another_dimension_is_no_trap(adapted, alone):
    # 2 samples, 2 features: a shape alone cannot tell the samples from the features.
    model = adapted(lambda toy, x: {"rows": toy.linear(x), "table": toy.linear(x).transpose(0, 1)}, width=2)
    x = torch.randn(4, 2, dtype=torch.float64)
    names = ["ben", "ann", "ann", "ben"]
    mixed = model(x, adapter_names=names)
    for row, name in enumerate(names):
        torch.testing.assert_close(mixed["table"][:, row], alone(model, name, x)["table"][:, row])


def test_a_loss_is_refused_by_name(adapted):
    model = adapted(lambda toy, x: {"loss": toy.linear(x).sum(), "rows": toy.linear(x)})
    with pytest.raises(shim.RefusedError, match=r"'loss'.*no dimension of samples.*labels"):
        model(X, adapter_names=NAMES)


def test_heads_of_different_sizes_are_refused_with_the_sizes(adapted):
    def body(toy, x):
        from shim.selection import _CURRENT

        return toy.linear(x)[..., : 2 if _CURRENT.get().adapter == "ben" else 3]

    model = adapted(body)
    with pytest.raises(shim.RefusedError, match=r"different size for each adapter.*'ann': .*3.*'ben': .*2"):
        model(X, adapter_names=NAMES)


@pytest.mark.parametrize("names", [NAMES, ["ann"] * 4, ["ben"]])
def test_each_sample_has_an_output_of_its_own_where_asked_for(adapted, alone, names):
    """So heads of different sizes can share a batch (contract H4)."""
    from shim.selection import _CURRENT

    def body(toy, x):
        selection = _CURRENT.get()
        name = toy.active if selection is None else selection.adapter
        rows = toy.linear(x)
        cut = rows[..., : 2 if name == "ben" else 3]
        return {
            "cut": cut,
            "tiled": torch.cat([rows, rows]),
            "time_major": rows.transpose(0, 1),
            "number": 7,
            "n": len(x),
        }

    model, x = adapted(body), X[: len(names)]
    observed = model(x, adapter_names=names, per_sample=True)
    assert [list(output) for output in observed] == [["cut", "tiled", "time_major", "number", "n"]] * len(names)
    for row, name in enumerate(names):
        model.base_model.model.active = name
        expected = alone(model, name, x[row : row + 1])
        assert (observed[row].pop("number"), observed[row].pop("n")) == (7, 1)
        for key, value in observed[row].items():
            torch.testing.assert_close(value, expected[key], rtol=1e-9, atol=1e-12)


def test_an_output_of_its_own_needs_inputs_and_outputs_that_divide(adapted):
    mixing = adapted(lambda toy, x: toy.linear(x).sum(0))
    with pytest.raises(shim.RefusedError, match="no dimension of samples"):
        mixing(X, adapter_names=NAMES, per_sample=True)
    with pytest.raises(shim.RefusedError, match="per_sample is given with x"):
        adapted(plain)(x=X, adapter_names=NAMES, per_sample=True, owners={"x": [0, 1, 2, 3]})


def test_an_output_that_the_batch_shares_is_refused_where_adapters_differ_in_it(adapted):
    def body(toy, x):
        return {"rows": toy.linear(x), "bias": toy.linear(torch.ones(1, 4, dtype=x.dtype))}

    model = adapted(body)
    with pytest.raises(shim.RefusedError, match=r"'bias' is one value for the whole batch"):
        model(X, adapter_names=NAMES)


# ---- inputs that divide by sample, and inputs that do not


def test_a_table_that_all_samples_share_is_never_cut(adapted):
    def body(toy, x, table):
        return toy.linear(x @ table.transpose(-1, -2) @ table)

    model = adapted(body)
    table = torch.randn(4, 4, dtype=torch.float64)  # as long as the batch, and shared
    with pytest.raises(shim.RefusedError, match="an input is not per sample"):
        model(X, table, adapter_names=NAMES)


def test_a_tensor_of_another_length_is_shared_where_that_is_right(adapted, alone):
    model = adapted(lambda toy, x, table: toy.linear(x + table))
    table = torch.randn(6, 4, dtype=torch.float64)
    mixed = model(X, table=table, adapter_names=NAMES)
    for row, name in enumerate(NAMES):
        torch.testing.assert_close(mixed[row], alone(model, name, X, table=table)[row])


class Memory:
    """A cache of the user's own: no forward on a part of the batch may touch it."""

    def __init__(self):
        self.rows = []


@pytest.mark.parametrize("value", [Memory(), X.numpy()])
def test_an_object_that_a_forward_may_change_is_refused_and_left_alone(adapted, value):
    def body(toy, x, memory=None):
        memory.rows.append(x)
        return toy.linear(x)

    model = adapted(body)
    with pytest.raises(shim.RefusedError, match=r"input 'memory' is a .*whose samples are not known"):
        model(X, memory=value, adapter_names=NAMES)
    assert getattr(value, "rows", []) == []


def test_a_plan_serves_other_lengths_and_numbers_of_samples(adapted, alone):
    calls = []

    def body(toy, x):
        calls.append(len(x))
        return toy.linear(x)

    model = adapted(body)
    model(X, adapter_names=NAMES)
    assert calls[0] == 4  # the rehearsal runs the whole batch, once
    calls.clear()
    x = torch.randn(5, 2, 4, dtype=torch.float64)
    names = ["ben", "ann", "ann", "__base__", "ben"]
    mixed = model(x, adapter_names=names)
    assert sorted(calls) == [1, 2, 2]
    for row, name in enumerate(names):
        torch.testing.assert_close(mixed[row], alone(model, name, x)[row])


def test_a_plan_that_no_longer_fits_is_made_again(adapted, alone):
    wanted = ["rows"]
    model = adapted(lambda toy, x: {key: toy.linear(x) * (i + 1) for i, key in enumerate(wanted)})
    model(X, adapter_names=NAMES)
    wanted.append("more")
    mixed = model(X, adapter_names=NAMES)
    for row, name in enumerate(NAMES):
        torch.testing.assert_close(mixed["more"][row], alone(model, name, X)["more"][row])


def test_a_rehearsal_leaves_the_random_generator_alone(adapted):
    model = adapted(lambda toy, x: toy.linear(x) + 0 * torch.rand(1, dtype=x.dtype))
    torch.manual_seed(7)
    model(X, adapter_names=["ann", "ann", "ben", "ben"])
    after = torch.rand(1)
    torch.manual_seed(7)
    torch.rand(1, dtype=X.dtype), torch.rand(1, dtype=X.dtype)  # one draw for each of the two groups
    assert torch.equal(after, torch.rand(1))


def test_a_failing_call_puts_the_random_generator_back(adapted):
    def body(toy, x):
        rows = toy.linear(x) + 0 * torch.rand(1, dtype=x.dtype)
        if failing and len(x) < 4:
            raise KeyboardInterrupt
        return rows

    failing = []
    model = adapted(body)
    model(X, adapter_names=NAMES)
    failing.append(True)
    before = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        model(X, adapter_names=NAMES)
    assert torch.equal(torch.get_rng_state(), before)


def test_gradients_flow_to_each_adapter_from_its_own_rows(adapted):
    model = adapted(plain)
    names = ["ann", "ben", "ben", "__base__"]
    weights = {k: p.requires_grad_() for k, p in model.named_parameters() if "lora_" in k}
    model(X, adapter_names=names)[1].sum().backward()
    got = {k: p.grad for k, p in weights.items()}
    assert all(grad is None or not grad.any() for k, grad in got.items() if ".ann." in k)
    assert all(grad.any() for k, grad in got.items() if ".ben." in k)


def test_values_that_share_a_name_are_refused(adapted):
    model = adapted(lambda toy, x: {"a.b": toy.linear(x), "a": {"b": x}})
    with pytest.raises(shim.RefusedError, match=r"two values are called 'a\.b'"):
        model(X, adapter_names=NAMES)


def test_an_argument_given_twice_is_an_error_as_without_names(adapted):
    model = adapted(lambda toy, x: toy.linear(x))
    model.get_base_model().forward = lambda x: model.get_base_model().body(model.get_base_model(), x)
    with pytest.raises(TypeError, match="multiple values for argument 'x'"):
        model(X, x=X, adapter_names=NAMES)


def test_layouts_do_not_pile_up(adapted, monkeypatch):
    from shim.routing import rehearsal

    monkeypatch.setattr(rehearsal, "_MOST", 3)
    model = adapted(lambda toy, x, scale: toy.linear(x) * scale)
    for scale in range(1, 7):
        model(X, scale=scale, adapter_names=NAMES)
    assert len(rehearsal._LAYOUTS[model]) == 3
