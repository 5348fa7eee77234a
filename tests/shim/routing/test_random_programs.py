"""Programs drawn at random from what models do to their batch: each row is its own, or the call is refused."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import shim
from tests.shim.routing.conftest import make_adapted, run_alone

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
    return h.reshape(-1, len(x), 4).transpose(0, 1) if h.numel() % (4 * len(x)) == 0 else h


def windows(toy, h, x):
    return h.reshape(2 * len(h), -1, 4) if h.shape[1] % 2 == 0 else h


def flipped(toy, h, x):
    return h.flip(0)


def rolled(toy, h, x):
    return h.roll(1, 1)


def sorted_and_back(toy, h, x):
    order = x.sum((1, 2)).argsort()
    return toy.linear(h[order])[order.argsort()] if len(h) == len(order) else h


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
    if chosen.shape != h.shape[:2]:
        return h
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
"""Each takes and returns a tensor of shape (rows, tokens, 4)."""


def program(steps):
    def body(toy, x):
        h = toy.linear(x)
        for step in steps:
            h = step(toy, h, x)
        return h.reshape(len(x), -1, 4)

    return body


def alike(one, other):
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-8, atol=1e-9)


def holds(output, rows):
    """Whether sample i of `output` is `rows[i]`."""
    return len(output) == len(rows) and all(map(alike, output.split(1), rows))


def is_batchable(model, x, name):
    """Whether the model, under one adapter, gives each sample of a batch what it gives the sample alone."""
    return holds(run_alone(model, name, x), [run_alone(model, name, row) for row in x.split(1)])


def is_served(steps, names, length, seed):
    """Whether a mixed call is answered; it must be right then."""
    model = make_adapted(program(steps))
    x = torch.randn(len(names), length, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    try:
        with torch.no_grad():
            mixed = model(x, adapter_names=names)
    except shim.RefusedError:
        return False
    if length != len(names) or all(is_batchable(model, x, name) for name in names):
        assert holds(mixed, [run_alone(model, name, row) for name, row in zip(names, x.split(1))])
    else:  # as many tokens as samples hide that rows were put together otherwise than they were taken apart
        whole = [run_alone(model, name, x) for name in names]
        assert holds(mixed, [one[row : row + 1] for row, one in enumerate(whole)])
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
    is_served(steps, names, len(names) if square else 6, seed)


def test_programs_that_keep_samples_apart_are_served():
    """So that what is said above is said of something."""
    draw = random.Random(0)
    programs = [draw.choices(STEPS, k=3) for _ in range(60)]
    assert sum(is_served(steps, ["ann", "__base__", "ben", "ann"], 6, 1) for steps in programs) > 20
