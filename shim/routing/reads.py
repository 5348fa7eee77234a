"""What Python read of the inputs while a forward was traced, and so which other calls its plan may serve."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Optional, Sequence

import torch

from shim.routing.owners import CONSTANT, Ids
from shim.routing.rules.indexing import MASKS
from shim.routing.storage import storage_of

# What gives a verdict on whole tensors.
VERDICTS = frozenset({"equal", "allclose"})
# Whose outputs are as large as values say, so that Python learns of these by a shape.
_SIZED_BY_FIRST = frozenset(
    "nonzero bincount _unique _unique2 unique_dim unique_consecutive unique_dim_consecutive".split()
)


# Whose second output says where in a row the first one was.
_WITH_PLACES = frozenset("max min median nanmedian mode kthvalue".split())


class Reads(IntEnum):
    """The more Python read, the fewer calls are alike.

    NOTHING: shapes and structure decide the layout. NUMBERS: integers of the whole batch (the greatest length), which
    may decide a layout that is not whole. VALUES: integers of the inputs, one by one (sizes, an order): each of their
    values has a plan of its own. WORKED_OUT: what was worked out for single samples (the lengths in a mask), by which
    Python may sort them: the plan is that call's alone.
    """

    NOTHING = 0
    NUMBERS = 1
    VALUES = 2
    WORKED_OUT = 3


def read_of(tensor: torch.Tensor, how: str, ids: Ids, samples: int, is_given: bool, compared: bool = False) -> Reads:
    """Return what Python learns where it reads `tensor`, whose elements belong to `ids`, by the method `how`.

    is_given: whether the tensor is an input, or a part of one. compared: whether it says which of some samples is the
    greater, or the greatest, by which Python may put them in order.
    """
    of_one = how in VERDICTS and _is_of_one_sample(ids)  # held against another's, as it may be
    if samples > 1 and (compared or of_one):
        return Reads.WORKED_OUT
    if how in VERDICTS or samples == 1 or _is_one_number_of_all(tensor, ids):
        is_control = tensor.is_floating_point() or tensor.dtype is torch.bool
        return Reads.NOTHING if is_control else Reads.NUMBERS
    return Reads.VALUES if is_given and not tensor.is_floating_point() else Reads.WORKED_OUT


def read_of_size(decider: torch.Tensor, ids: Ids, samples: int) -> Reads:
    """Return what Python learns from the size of an output that the values of `decider` decide.

    That of a single sample's is a length of it; how many there are in the whole batch places no sample.
    """
    return Reads.WORKED_OUT if samples > 1 and _is_of_one_sample(ids) else Reads.NOTHING


def decider_of_size(name: str, args: Sequence[Any]) -> Optional[torch.Tensor]:
    """Return the operand of the operation `name` whose values decide the size of its output; None where none does."""
    deciders: Sequence[Any] = ()
    if name in _SIZED_BY_FIRST:
        deciders = args[:1]
    elif name in ("masked_select", "repeat_interleave"):  # of repeats alone, too; or of a number
        deciders = args[:2][-1:]
    elif name == "index":
        deciders = [index for index in args[1] if index is not None and index.dtype in MASKS]
    return next((decider for decider in deciders if isinstance(decider, torch.Tensor)), None)


def tells_which(name: str, number: int) -> bool:
    """Whether the output `number` of the operation `name` says which of the elements is the one that was sought."""
    return name in ("argmax", "argmin") or (number == 1 and name in _WITH_PLACES)


def _is_of_one_sample(ids: Ids) -> bool:
    return ids is not None and len(torch.unique(ids[ids != CONSTANT])) == 1


def _is_one_number_of_all(tensor: torch.Tensor, ids: Ids) -> bool:
    """Whether `tensor` is a number that stands alone, as a reduction gives it, and is no single sample's.

    One that stands among others is one of a list, which Python can go through.
    """
    alone = tensor.numel() == 1 and storage_of(tensor).nbytes() == tensor.element_size()
    return alone and (ids is None or not bool((ids > CONSTANT).any()))
