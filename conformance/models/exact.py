"""The models of `integers.py` as data: the exact tier, where outputs are compared bit by bit."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Tuple

from conformance.models.model import Model

if TYPE_CHECKING:
    import torch

    from conformance.models.model import Inputs


def _whole(name: str) -> torch.nn.Module:
    """Return the module of that name with random whole weights."""
    from conformance.models import integers

    return integers.whole(getattr(integers, name)())


def _ids(samples: int, length: int, generator: torch.Generator) -> Inputs:
    """Return unpadded ids whose first two columns tell up to 256 rows apart."""
    import torch

    from conformance.models.integers import WORDS

    ids = torch.randint(WORDS, (samples, length), generator=generator)
    order = torch.randperm(WORDS * WORDS, generator=generator)[torch.arange(samples) % (WORDS * WORDS)]
    ids[:, 0] = torch.div(order, WORDS, rounding_mode="floor")
    ids[:, 1] = order % WORDS
    return {"input_ids": ids}


def _states(samples: int, length: int, generator: torch.Generator) -> Inputs:
    """Return whole numbers up to LARGEST_STATE, as floats."""
    import torch

    from conformance.models.integers import LARGEST_STATE, WIDTH

    shape = (samples, length, WIDTH)
    states = torch.randint(-LARGEST_STATE, LARGEST_STATE + 1, shape, generator=generator)
    return {"hidden_states": states.float()}


def _states_and_lengths(samples: int, length: int, generator: torch.Generator) -> Inputs:
    """Return whole numbers, and lengths from the shortest to the longest, so that the rows reversed are in order."""
    import torch

    lengths = torch.randint(1, length + 1, (samples,), generator=generator).sort().values
    lengths[0], lengths[-1] = 1, length
    return {**_states(samples, length, generator), "lengths": lengths}


EXACT: Tuple[Model, ...] = (
    Model(
        name="integers",
        architecture="",
        build=partial(_whole, "Integers"),
        inputs=_ids,
        targets=("embedding", "up", "down"),
        saved=("head",),
        tags=frozenset({"integer"}),
        lengths=(3, 4, 7),
    ),
    Model(
        name="integers-folded",
        architecture="",
        build=partial(_whole, "FoldedIntegers"),
        inputs=_states,
        targets=("up", "down"),
        saved=("head",),
        tags=frozenset({"integer", "folds-batch"}),
        lengths=(2, 4, 6),
    ),
    Model(
        name="integers-sorted",
        architecture="",
        build=partial(_whole, "SortedIntegers"),
        inputs=_states_and_lengths,
        targets=("up", "down"),
        saved=("head",),
        tags=frozenset({"integer", "sorts-rows"}),
        lengths=(2, 4, 6),
    ),
)
