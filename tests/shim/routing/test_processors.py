"""Logits processors and stopping criteria of the caller's: called as in any generate, or refused, never renumbered."""

import pytest
import torch
import transformers
from packaging.version import Version
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
)

import shim
from tests.shim.engines.rows import NAMES, llama, sentences

# Breakpoint: huggingface/transformers#29116, transformers 4.39: a criterion answers for each row.
BY_ROW = Version(transformers.__version__) >= Version("4.39")
SETTINGS = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}


class OneTokenEach(LogitsProcessor):
    """Lets row i say token 5 + i, and nothing else, as guided decoding does."""

    def __call__(self, ids, scores):
        allowed = torch.arange(5, 5 + len(scores))[:, None]
        return torch.full_like(scores, -1e9).scatter(1, allowed, 0.0)


class SevenFirst(LogitsProcessor):
    """Says token 7 at its first step."""

    def __init__(self):
        self.steps = 0

    def __call__(self, ids, scores):
        self.steps += 1
        if self.steps > 1:
            return scores
        return torch.full_like(scores, -1e9).index_fill(1, torch.tensor([7]), 0.0)


class EndOfTwo(StoppingCriteria):
    """Ends after two steps."""

    def __init__(self):
        self.steps = 0

    def __call__(self, ids, scores, **kwargs):
        self.steps += 1
        return torch.full((len(ids),), self.steps >= 2) if BY_ROW else self.steps >= 2


GIVEN = {
    "a processor by row": lambda: {"logits_processor": LogitsProcessorList([OneTokenEach()])},
    "a processor with a state": lambda: {"logits_processor": LogitsProcessorList([SevenFirst()])},
    "a criterion with a state": lambda: {"stopping_criteria": StoppingCriteriaList([EndOfTwo()])},
}
ALIKE = {
    "processors of transformers": lambda: {
        "logits_processor": LogitsProcessorList(
            [RepetitionPenaltyLogitsProcessor(1.3), NoRepeatNGramLogitsProcessor(2)]
        )
    },
}


@pytest.fixture
def model(installed_shim):
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield llama()
    torch.set_default_dtype(default)


def own_tokens(model, inputs, given):
    """Return each row's tokens where the whole batch is generated under its adapter."""
    rows = []
    for row, name in enumerate(NAMES):
        settings = {**SETTINGS, **given()}
        if name == "__base__":
            with model.disable_adapter():
                rows.append(model.generate(**inputs, **settings)[row])
        else:
            model.set_adapter(name)
            rows.append(model.generate(**inputs, **settings)[row])
    return torch.stack(rows)


@pytest.mark.parametrize("which", sorted({**GIVEN, **ALIKE}))
def test_in_one_pass_they_see_all_rows_in_their_places(model, which):
    given, inputs = {**GIVEN, **ALIKE}[which], sentences(len(NAMES))
    shim.install(fallback="refuse")
    mixed = model.generate(**inputs, adapter_names=NAMES, **SETTINGS, **given())
    assert mixed.tolist() == own_tokens(model, inputs, given).tolist()


@pytest.mark.parametrize("which", sorted(GIVEN))
def test_a_split_of_what_may_tell_rows_apart_is_refused(model, split_only, which):
    name = next(iter(GIVEN[which]()))
    with pytest.raises(shim.RefusedError, match=rf"{name} has a \w+, which may tell rows apart"):
        model.generate(**sentences(len(NAMES)), adapter_names=NAMES, **SETTINGS, **GIVEN[which]())


@pytest.mark.parametrize("which", sorted(ALIKE))
def test_a_split_of_what_treats_rows_alike_is_exact(model, split_only, which):
    inputs = sentences(len(NAMES))
    mixed = model.generate(**inputs, adapter_names=NAMES, **SETTINGS, **ALIKE[which]())
    assert mixed.tolist() == own_tokens(model, inputs, ALIKE[which]).tolist()
