"""Layers that a model runs once for all samples are run once for each, where that changes nothing.

A position embedding, a learned query or a time embedding is computed on a batch of one and broadcast. Expanded before
the layer, every sample has a row of its own, and so its own adapter. Whether the model takes the row more is tried: the
traced base model must give the same.
"""

from __future__ import annotations

from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

from shim.routing.layers import Kind
from shim.routing.plan import Plan, PlannedCall

Lifts = Dict[str, Tuple[int, ...]]
"""For each layer the dimensions that take the place of its input's first, of size 1, or stand before its only one."""


def lifted(call: PlannedCall, args: Tuple[Any, ...]) -> Tuple[Any, ...]:
    """Return the arguments of a layer call, its input expanded where the call is lifted."""
    if not call.lifted:
        return args
    x = args[0]
    rest = x.shape if x.dim() == 1 else x.shape[1:]
    return (x.reshape(*[1] * len(call.lifted), *rest).expand(*call.lifted, *rest), *args[1:])


def can_be_lifted(kind: Kind, shape: Sequence[Optional[int]]) -> bool:
    """Whether an input of this shape may be one row for all samples: a batch of one, or a row without a batch."""
    if kind is Kind.LINEAR:
        return len(shape) == 1 or shape[:1] == (1,)
    return kind is Kind.EMBEDDING and len(shape) > 1 and shape[:1] == (1,)


def ways_to_lift(plan: Plan, count: int) -> List[Lifts]:
    """Return what to try for the layer calls that all `count` samples share: most likely first, none where none is.

    As many rows as the layer call before has, which position embeddings are added to as a rule, or else as there are
    samples; then as many as the next call has, which learned queries attend to; and both with the dimensions between
    the samples and the features that broadcasting to that call needs.
    """
    inputs = (shape for _, shape in plan.lengths if shape[:1] == (count,))
    batch = max(inputs, key=len, default=(count,))
    before, after = _neighbours(plan.calls, batch), _neighbours(plan.calls[::-1], batch)
    ways: List[Lifts] = []
    for neighbours in (before, after):
        for padded in (False, True):
            way = {layer: _dimensions(shape, near, padded) for layer, (shape, near) in neighbours.items()}
            if way and way not in ways:
                ways.append(way)
    return ways


def _neighbours(calls: Iterable[PlannedCall], near: Tuple[Optional[int], ...]) -> Dict[str, Tuple[Any, Any]]:
    """Return, for each layer that may be lifted, its input's shape and that of the last call of several rows.

    near: the shape that stands for a call before the first.
    """
    found: Dict[str, Tuple[Any, Any]] = {}
    for call in calls:
        if call.shared and can_be_lifted(call.kind, call.shape):
            found[call.layer] = (call.shape, near)
        elif call.shape and call.shape[0] is not None and call.shape[0] > 1:
            near = call.shape
    return found


def _dimensions(shape: Sequence[Any], near: Sequence[Any], padded: bool) -> Tuple[int, ...]:
    rest = max(1, len(shape) - 1)
    return (near[0], *[1] * (len(near) - rest - 1 if padded else 0))
