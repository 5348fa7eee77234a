"""Outputs as long as the batch whose samples lie along another dimension: a run of one sample shows that they do.

Where there are as many tokens as samples, either dimension would do. A time-major model (XLNet's `mems`) has them along
the second at any length; one that folds its batch in another way than it unfolds it has them there at this length only,
and mixes them at any other.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Callable, Dict, Mapping, Sequence, Tuple

import torch

from shim.batch import MixedBatch
from shim.errors import Unroutable
from shim.no_trace import nothing_changed
from shim.routing.inputs import Inputs, sample_rules, take
from shim.routing.layers import tensors_of
from shim.routing.rows import RowRule
from shim.routing.tree import shown
from shim.selection import BASE, select

TimeMajor = Mapping[str, Tuple[int, Tuple[int, ...]]]
"""By path the dimension of the samples, and the shape."""


def check_time_major(
    function: Callable[..., Any],
    batch: MixedBatch,
    inputs: Inputs,
    rows: Sequence[int],
    owners: Mapping[str, RowRule],
    found: TimeMajor,
) -> None:
    """Check that in one sample's output, too, samples lie where they were found; one forward, where any were.

    Raises:
        Unroutable: they do not, or one sample does not run by itself.
    """
    if not found:
        return
    if owners and tuple(rows) != tuple(range(len(rows))):
        raise Unroutable("there are as many parts as samples, and which of them are the first sample's is not known")
    shapes = _shapes(function, batch, take(inputs, [0], sample_rules(inputs, len(rows), owners)))
    for path, (dim, shape) in found.items():
        one = shapes.get(path)
        if one != (*shape[:dim], 1, *shape[dim + 1 :]):
            raise Unroutable(
                f"output {shown(path)} of shape {shape} holds its samples along dim {dim}, but for one sample it is of "
                f"shape {one}: they lie there only where they are as many as their parts"
            )


def _shapes(function: Callable[..., Any], batch: MixedBatch, one: Inputs) -> Dict[str, Tuple[int, ...]]:
    """Return the shapes of what the base model makes of one sample."""
    selection = replace(batch.selection(BASE), trains=False)
    try:
        with nothing_changed(batch.model), torch.no_grad(), select(selection):
            state = {"output": one.call(function), "state": one.caches()}
    except (MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:
        raise Unroutable(f"one sample does not run by itself: {type(error).__name__}: {error}") from error
    return {path: tuple(tensor.shape) for path, tensor in tensors_of(state)}
