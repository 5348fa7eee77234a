"""What a trace believes of outputs: whatever holds the rows, they are found in it."""

from collections import UserDict
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

import shim

NAMES = ["ann", "__base__", "ben", "ann"]
X = torch.randn(4, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@dataclass
class Answer:
    rows: torch.Tensor


def looped(rows):
    value = SimpleNamespace(rows=rows)
    value.owner = value
    return value


HOLDERS = {
    "a dataclass": Answer,
    "a namespace": lambda rows: SimpleNamespace(rows=rows),
    "a UserDict": lambda rows: UserDict(rows=rows),
    "a namespace in a list": lambda rows: [SimpleNamespace(rows=rows)],
    "what holds itself": looped,
}


def rows_in(output):
    output = output[0] if isinstance(output, list) else output
    return output["rows"] if isinstance(output, UserDict) else output.rows


@pytest.mark.parametrize("hold", HOLDERS.values(), ids=HOLDERS)
def test_rows_of_their_own_are_believed_in_whatever_holds_them(hold, adapted, alone):
    model = adapted(lambda toy, x: hold(toy.linear(x)))
    assert shim.explain(model, {"x": X}, NAMES).route == "one pass"
    mixed = rows_in(model(X, adapter_names=NAMES))
    for row, name in enumerate(NAMES):
        torch.testing.assert_close(mixed[row], rows_in(alone(model, name, X))[row], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("hold", HOLDERS.values(), ids=HOLDERS)
def test_rows_that_mix_samples_are_refused_in_whatever_holds_them(hold, adapted):
    model = adapted(lambda toy, x: hold(toy.linear(x) + toy.linear(x).mean(0)))
    with pytest.raises(shim.RefusedError, match="mixes samples"):
        model(X, adapter_names=NAMES)


@pytest.mark.parametrize("hide", [lambda rows: {rows}, lambda rows: lambda: rows, lambda rows: iter([rows])])
def test_what_cannot_be_looked_into_is_refused_in_few_words(hide, adapted):
    def body(toy, x):
        rows = toy.linear(x)
        return {"rows": rows, "hidden": hide(rows + rows.mean(0))}

    with pytest.raises(shim.RefusedError, match=r"'hidden' is a \w+ for the whole batch.*cannot be seen") as refused:
        adapted(body)(X, adapter_names=NAMES)
    assert "tensor(" not in str(refused.value)


def meets_every_state(toy, x, **given):
    """Add each sample to the state of every one, by broadcasting, as RWKV does."""
    (state,) = given.values()
    return toy.linear(x[:, :1] + (state[0] if isinstance(state, list) else state))


STATES = {"a list of tensors": {"memory": [X[:, 1]]}, "by its name": {"hidden_state": X[:, 1]}}


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_samples_that_meet_in_the_state_of_an_earlier_call_are_refused(state, adapted):
    with pytest.raises(shim.RefusedError, match=r"mixes samples: add"):
        adapted(meets_every_state)(X, **state, adapter_names=NAMES)


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_a_state_of_the_rows_own_is_no_obstacle(state, adapted):
    model = adapted(lambda toy, x, **given: meets_every_state(toy, x, **{n: _own(s) for n, s in given.items()}))
    assert shim.explain(model, {"x": X, **state}, NAMES).route == "one pass"


def _own(state):
    return [tensor[:, None] for tensor in state] if isinstance(state, list) else state[:, None]
