"""How owners pass through each operation: one rule per operation, each tested against brute force."""

from __future__ import annotations

from shim.routing.rules import (
    attention,
    creation,
    indexing,
    loss,
    movement,
    placement,
    products,
    quantised,
    reduction,
    spatial,
)
from shim.routing.rules.op import RULES, Op, Result, find_rule


def elementwise(op: Op) -> Result:
    """Return the ids of an operation that makes each element of the elements at its own position."""
    return op.join(*map(op.ids, op.read()))


__all__ = [
    "RULES",
    "attention",
    "creation",
    "elementwise",
    "find_rule",
    "indexing",
    "loss",
    "movement",
    "placement",
    "products",
    "quantised",
    "reduction",
    "spatial",
]
