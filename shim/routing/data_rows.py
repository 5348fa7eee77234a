"""Rows that are taken by their places: where data has put them together, others' rows decide which ones these are.

A slice may take all rows in one call and not in the next (`rows[:capacity]`), so what it takes is judged by how it is
written.
"""

from __future__ import annotations

from typing import Any, Callable, List, Mapping, Optional, Sequence

import torch

from shim.routing.rules.indexing import MASKS

# They put rows back where these came from, or wherever else the index says.
_PLACES = frozenset("index_add index_put index_copy scatter scatter_add scatter_reduce masked_scatter".split())
_BY_PLACE = frozenset("slice select unbind split split_with_sizes unsafe_split unsafe_split_with_sizes".split())
# Where a slice ends that goes to the end, in the dispatcher.
_TO_THE_END = 2**63 - 1


def puts_together(name: str, args: Sequence[Any], has_several: Callable[[torch.Tensor], bool]) -> bool:
    """Whether operation `name` puts rows together that data chooses among elements of several owners."""
    if name in ("nonzero", "masked_select"):
        return any(has_several(tensor) for tensor in args[:2] if isinstance(tensor, torch.Tensor))
    masks = args[1] if name == "index" else ()
    return any(one is not None and one.dtype in MASKS and has_several(one) for one in masks)


def places(name: str) -> bool:
    """Whether operation `name` puts rows to their places, so that its output is not what data has put together."""
    return name in _PLACES


def dim_taken(
    name: str, args: Sequence[Any], kwargs: Mapping[str, Any], has_owners: Callable[[torch.Tensor], bool]
) -> Optional[int]:
    """Return the dimension along which operation `name` takes elements of its first argument by constant places.

    None where it takes none so: all of them, or by an index that `has_owners`, which goes with the rows.
    """
    if name == "slice" and args[2:4] in ((), (0,), (None,), (0, _TO_THE_END), (None, None)):
        return None
    if name in _BY_PLACE:
        at = 1 if name in ("slice", "select", "unbind") else 2
        return int(kwargs.get("dim", args[at] if len(args) > at else 0))
    if name == "index_select":
        return None if has_owners(args[2]) else int(args[1])
    if name == "index":
        constant = (dim for dim, index in enumerate(args[1]) if index is not None and not has_owners(index))
        return next(constant, None)
    return None


def dims_sliced(index: Any, dims: int) -> List[int]:
    """Return the dimensions, of `dims`, of which `tensor[index]` takes a slice; if that is all, none is dispatched."""
    parts = list(index) if isinstance(index, tuple) else [index]
    used = [_dims_of(part) for part in parts]
    found, at = [], 0
    for part, count in zip(parts, used):
        if isinstance(part, slice) and (part.start not in (None, 0) or part.stop is not None):
            found.append(at)
        at += max(0, dims - sum(used)) if part is Ellipsis else count
    return [dim for dim in found if dim < dims]


def _dims_of(part: Any) -> int:
    """Return how many dimensions a part of an index takes up."""
    if part is None or part is Ellipsis or isinstance(part, bool):
        return 0
    is_mask = isinstance(part, torch.Tensor) and part.dtype in MASKS
    return part.dim() if is_mask else 1
