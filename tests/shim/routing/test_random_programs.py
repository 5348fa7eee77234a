"""Programs drawn at random from what models do to their batch: each row is its own, or the call is refused."""

import random
from itertools import combinations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import shim
from shim.batch import MixedBatch
from tests.shim.routing.conftest import make_adapted, run_alone
from tests.shim.routing.rows_alone import check_rows, check_samples, samples

NAMES = ("ann", "ben", "__base__")


def linear(toy, h, x):
    return toy.linear(h)


def transposed(toy, h, x):
    return h.transpose(0, 1)


def flat(toy, h, x):
    return h.reshape(1, -1, 4)


def by_sample(toy, h, x):
    return h.reshape(len(x), -1, 4)


def by_sample_from_tiles(toy, h, x):
    return h.reshape(-1, len(x), 4).transpose(0, 1)


def windows(toy, h, x):
    return h.reshape(2 * len(h), -1, 4)


def flipped(toy, h, x):
    return h.flip(0)


def rolled(toy, h, x):
    return h.roll(1, 1)


def sorted_and_back(toy, h, x):
    order = x.sum((1, 2)).argsort()
    return toy.linear(h[order])[order.argsort()]


def sorted_within(toy, h, x):
    return h.sort(1).values


def sorted_across(toy, h, x):
    return h.sort(0).values


def less_the_mean(toy, h, x):
    return h - h.mean(1, keepdim=True)


def less_the_mean_of_all(toy, h, x):
    return h - h.mean(0, keepdim=True)


def summed_up(toy, h, x):
    return 0.3 * h.cumsum(1)


def attended(toy, h, x):
    return F.softmax(h @ h.transpose(1, 2), -1) @ h


def tiled(toy, h, x):
    both = toy.linear(torch.cat([h, 0.5 * h]))
    return both[: len(h)] + both[len(h) :]


def repeated(toy, h, x):
    both = toy.linear(h.repeat_interleave(2, 0))
    return both[::2] - 0.5 * both[1::2]


def where_positive(toy, h, x):
    return torch.where(h > 0, toy.linear(h), h)


def tokens_that_the_input_chooses(toy, h, x):
    chosen = x[..., 0] > 0
    h = h.clone()
    h[chosen] = toy.linear(h[chosen])
    return h


def tokens_that_choose_themselves(toy, h, x):
    tokens = h.reshape(-1, 4).clone()
    chosen = tokens[:, 0] > 0
    tokens[chosen] = toy.linear(tokens[chosen])
    return tokens.reshape(h.shape)


def with_a_class_token(toy, h, x):
    rows = toy.linear(torch.cat([torch.ones_like(h[:, :1]), h], 1))
    return rows[:, 1:] + rows[:, :1]


def padded(toy, h, x):
    return F.pad(h, (0, 0, 1, 0))[:, :-1]


def one_by_one(toy, h, x):
    return torch.stack([toy.linear(row) for row in h])


def the_next_token_added(toy, h, x):
    tokens, length = h.reshape(-1, 4), h.shape[1]
    place = torch.arange(len(tokens))
    place = torch.div(place, length, rounding_mode="floor") * length + (place + 1) % length
    return torch.zeros_like(tokens).index_add_(0, place, tokens).reshape(h.shape)


STEPS = [value for value in list(globals().values()) if getattr(value, "__module__", "") == __name__]
"""Each takes and returns a tensor of shape (rows, tokens, 4), and asks for no number of samples."""


def program(steps):
    def body(toy, x):
        h = toy.linear(x)
        for step in steps:
            h = step(toy, h, x)
        return h.reshape(len(x), -1, 4)

    return body


def one_by_one_alone(model, x, name):
    """Each sample of `x` by itself under one adapter."""
    return torch.cat([run_alone(model, name, row) for row in x.split(1)])


def tells_adapters_apart(model, x, names):
    """Whether the program runs, and each sample is another under each adapter: a sum that cancels all shows nothing."""
    try:
        run_alone(model, names[0], x)
        alone = [one_by_one_alone(model, x, name) for name in sorted(set(names))]
    except (IndexError, RuntimeError):  # its steps do not fit each other's shapes
        return False
    return all((one - other).abs().amax((1, 2)).min() > 1e-3 for one, other in combinations(alone, 2))


def is_batchable(model, x, name):
    """Whether the model, under one adapter, gives each sample of a batch what it gives the sample alone."""
    whole, alone = run_alone(model, name, x), one_by_one_alone(model, x, name)
    return whole.shape == alone.shape and torch.allclose(whole, alone, rtol=1e-9, atol=1e-12)


def is_served(model, x, names):
    """Whether a mixed call is answered; it must be right then, by its trace and again by its plan."""
    try:
        with torch.no_grad():
            model(x, adapter_names=names)
    except shim.RefusedError:
        return False
    if x.shape[1] != len(names) or all(is_batchable(model, x, name) for name in names):
        check_samples(model, run_alone, x, names)
    else:  # as many tokens as samples hide that rows were put together otherwise than they were taken apart
        check_rows(model, run_alone, x, names)
    return True


@pytest.fixture(scope="module", autouse=True)
def _shim():
    shim.install(fallback="split")
    yield
    shim.uninstall()


@given(
    steps=st.lists(st.sampled_from(STEPS), min_size=1, max_size=6),
    names=st.lists(st.sampled_from(NAMES), min_size=2, max_size=5).filter(lambda names: len(set(names)) > 1),
    square=st.booleans(),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_each_row_is_its_own_or_the_call_is_refused(steps, names, square, seed):
    model, x = make_adapted(program(steps)), samples(len(names), seed, len(names) if square else 6)
    assume(tells_adapters_apart(model, x, names))
    is_served(model, x, names)


def test_programs_that_keep_samples_apart_are_served():
    """So that what is said above is said of something."""
    draw = random.Random(0)
    models = [make_adapted(program(draw.choices(STEPS, k=3))) for _ in range(60)]
    x, names = samples(4), ["ann", "__base__", "ben", "ann"]
    assert sum(is_served(model, x, names) for model in models if tells_adapters_apart(model, x, names)) > 20


def test_a_row_under_another_adapter_is_seen(monkeypatch):
    """So that what is asked above can be answered with no."""
    other = {"ann": "ben", "ben": "__base__", "__base__": "ann"}
    taken = MixedBatch.selection
    monkeypatch.setattr(MixedBatch, "selection", lambda batch, adapter: taken(batch, other[adapter]))
    shim.install(fallback="split")
    with pytest.raises(AssertionError, match="not close"):
        is_served(make_adapted(program([tokens_that_choose_themselves])), samples(3), list(NAMES))
