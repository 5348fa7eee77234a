"""Outputs of every structure, put together from those of the groups: or refused by name."""

from collections import UserDict, namedtuple
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch

import shim
from shim.routing.layers import tensors_of

pytestmark = pytest.mark.usefixtures("split_only")
NAMES = ["ann", "__base__", "ben", "ann"]
X = torch.randn(4, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
Pair = namedtuple("Pair", "first second")


@dataclass
class Answer:
    rows: torch.Tensor
    name: str = "answer"


@dataclass
class Computed:
    rows: torch.Tensor
    twice: torch.Tensor = field(init=False)

    def __post_init__(self):
        self.rows = self.rows + 1
        self.twice = self.rows * 2


def plain(toy, x):
    return toy.linear(x)


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


def test_values_that_share_a_name_are_refused(adapted):
    model = adapted(lambda toy, x: {"a.b": toy.linear(x), "a": {"b": x}})
    with pytest.raises(shim.RefusedError, match=r"two values are called 'a\.b'"):
        model(X, adapter_names=NAMES)


@pytest.mark.parametrize("hold", [Computed, lambda rows: SimpleNamespace(rows=rows), lambda rows: UserDict(rows=rows)])
@pytest.mark.parametrize("per_sample", [False, True])
def test_rows_are_put_together_in_whatever_holds_them(adapted, alone, hold, per_sample):
    model = adapted(lambda toy, x: hold(toy.linear(x)))
    mixed = model(X, adapter_names=NAMES, per_sample=per_sample)
    for row, name in enumerate(NAMES):
        own, got = ([values for _, values in tensors_of(o)] for o in (alone(model, name, X), mixed))
        got = [values for _, values in tensors_of(mixed[row])] if per_sample else got
        assert len(got) == len(own)
        for observed, expected in zip(got, own):
            torch.testing.assert_close(observed[0 if per_sample else row], expected[row], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("holder", [{}, SimpleNamespace()])
def test_an_output_that_is_filled_at_every_call_holds_each_calls_own(adapted, alone, holder):
    """The same object for every adapter: without a copy it would hold the last adapter's rows."""
    held = holder if isinstance(holder, dict) else vars(holder)

    def body(toy, x):
        held["rows"] = toy.linear(x)
        return holder

    model = adapted(body)
    for _ in range(2):
        ((_, mixed),) = tensors_of(model(X, adapter_names=NAMES))
        for row, name in enumerate(NAMES):
            alone(model, name, X)
            torch.testing.assert_close(mixed[row], held["rows"][row], rtol=1e-9, atol=1e-12)


def test_a_value_that_changes_is_refused_in_few_words(adapted):
    model = adapted(lambda toy, x: {"rows": toy.linear(x), "all": {toy.linear(x)}, "text": "x" * 99 + str(len(x))})
    with pytest.raises(shim.RefusedError, match="'all' is a set for the whole batch and a set for a part") as refused:
        model(X, adapter_names=NAMES)
    assert len(str(refused.value)) < 400
