"""Generators of the samples' own: a sampled row is what it is alone, whatever the other rows are."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import shim
from shim.routing.sampling import drawing_from, generating
from tests.tiny_models import far_apart

NAMES = ["ann", "__base__", "ben", "ann"]
SEEDS = [3, 14, 15, 92]
IDS = torch.randint(3, 32, (4, 5), generator=torch.Generator().manual_seed(5))
SETTINGS = {
    "plain": {},
    "top k": {"top_k": 7, "temperature": 1.3},
    "returned": {"num_return_sequences": 3},
    "beams": {"num_beams": 3, "num_return_sequences": 2, "early_stopping": True},
}


@pytest.fixture(params=["one pass", "split"])
def model(request, installed_shim):
    if request.param == "split":
        request.getfixturevalue("split_only")
    else:
        shim.install(fallback="refuse")
    return far_apart(["ann", "ben"], ["q_proj", "o_proj", "down_proj"])


def alone(model, row, **more):
    """Sample a row by itself, from torch's own generator and without names."""
    torch.manual_seed(SEEDS[row])
    given = {"input_ids": IDS[row : row + 1], "do_sample": True, "max_new_tokens": 6, **more}
    if NAMES[row] == "__base__":
        with model.disable_adapter():
            return model.generate(**given)
    model.set_adapter(NAMES[row])
    return model.generate(**given)


def mixed(model, rows=(0, 1, 2, 3), generators=None, **more):
    return model.generate(
        input_ids=IDS[list(rows)],
        adapter_names=[NAMES[row] for row in rows],
        generators=[SEEDS[row] for row in rows] if generators is None else generators,
        **{"do_sample": True, "max_new_tokens": 6, **more},
    )


def same(observed, expected):
    length = max(observed.shape[1], expected.shape[1])
    pad = lambda tokens: torch.nn.functional.pad(tokens, (0, length - tokens.shape[1]))  # noqa: E731
    return pad(observed).tolist() == pad(expected).tolist()


@pytest.mark.parametrize("how", sorted(SETTINGS))
def test_a_row_samples_what_it_does_alone(model, how):
    rows = [3, 1, 0, 2]
    observed = mixed(model, rows, **SETTINGS[how])
    per = len(observed) // 4
    for position, row in enumerate(rows):
        assert same(observed[position * per : (position + 1) * per], alone(model, row, **SETTINGS[how])), row
    other = mixed(model, rows, generators=[1, 2, 3, 4], **SETTINGS[how])
    assert not same(other, observed)  # the seeds do decide


def test_one_adapter_for_all_rows(model):
    NAMES_OF_ANN = [0, 3]
    observed = mixed(model, NAMES_OF_ANN)
    for position, row in enumerate(NAMES_OF_ANN):
        assert same(observed[position : position + 1], alone(model, row))


def test_generators_go_on_where_they_are(model):
    own = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    first, second = mixed(model, generators=own), mixed(model, generators=own)
    assert same(first, mixed(model))
    assert not same(second, first)


def test_torchs_generator_is_left_alone(model):
    before = torch.get_rng_state()
    mixed(model)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_generators_torchs_own_is_used(model):
    before = torch.get_rng_state()
    model.generate(input_ids=IDS, adapter_names=NAMES, do_sample=True, max_new_tokens=2)
    assert not torch.equal(torch.get_rng_state(), before)


def test_a_failed_call_leaves_the_generators_as_they_were(model):
    own = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    before = [generator.get_state() for generator in own]
    calls = []

    def fail(batch, tokens):
        calls.append(len(tokens))
        if len(tokens) > 7:
            raise KeyError("stop")
        return list(range(32))

    with pytest.raises(KeyError):
        mixed(model, generators=own, prefix_allowed_tokens_fn=fail)
    assert len(calls) > 4  # some tokens were drawn
    assert all(torch.equal(generator.get_state(), state) for generator, state in zip(own, before))


ONE = torch.Generator()
WRONG = {
    "three": [1, 2, 3],
    "a number": 7,
    "a string": [1, 2, 3, "4"],
    "None": [1, 2, 3, None],
    "True": [True, 1, 2, 3],
    "one twice": [ONE, ONE, 1, 2],
    "an iterator": iter(SEEDS),
}


@pytest.mark.parametrize("wrong", sorted(WRONG))
def test_what_is_not_a_generator_for_each_sample_is_an_error(model, wrong):
    with pytest.raises(shim.AdapterNamesError, match="generators"):
        mixed(model, generators=WRONG[wrong])


@settings(max_examples=40)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 99))
def test_every_row_is_drawn_from_its_samples_generator(samples, per, draws, seed):
    weights = torch.rand(samples * per, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    with drawing_from(tuple(torch.Generator().manual_seed(seed + sample) for sample in range(samples))):
        with generating(range(samples)[::-1]):
            observed = torch.multinomial(weights, num_samples=draws)
        assert len(torch.multinomial(weights[:samples], 1, True)) == samples
    for position, sample in enumerate(range(samples)[::-1]):
        own = torch.Generator().manual_seed(seed + sample)
        rows = slice(position * per, (position + 1) * per)
        assert torch.equal(observed[rows], torch.multinomial(weights[rows], draws, generator=own))


def test_rows_that_do_not_divide_by_sample_are_refused():
    with drawing_from((torch.Generator(), torch.Generator())), pytest.raises(shim.RefusedError, match="3 rows"):
        torch.multinomial(torch.ones(3, 4), 1)


def test_a_draw_with_a_generator_of_its_own_keeps_it():
    weights = torch.ones(2, 50)
    with drawing_from((torch.Generator(), torch.Generator())):
        observed = torch.multinomial(weights, 9, generator=torch.Generator().manual_seed(1))
    assert torch.equal(observed, torch.multinomial(weights, 9, generator=torch.Generator().manual_seed(1)))
