"""What the shim does where a batch cannot be proven exact in one pass: chosen once for the process, by `install`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import FrozenSet, Iterable

SPLIT, REFUSE = "split", "refuse"


@dataclass(frozen=True)
class Policy:
    """What was chosen.

    fallback: `split` the batch by adapter where that is exact, or `refuse` it. mixed_outputs: the outputs that may
    be made of several samples, such as CLIP's `logits_per_image` or a `loss`: each part of them is computed under
    its own sample's adapter, and no row of them belongs to one sample.
    """

    fallback: str = SPLIT
    mixed_outputs: FrozenSet[str] = frozenset()


_chosen = Policy()


def choose(fallback: str, mixed_outputs: Iterable[str]) -> None:
    """Set the policy; raise `ValueError` for a fallback that does not exist, or a string for several outputs."""
    global _chosen
    if fallback not in (SPLIT, REFUSE):
        raise ValueError(f"fallback is {fallback!r}, but should be {SPLIT!r} or {REFUSE!r}")
    if isinstance(mixed_outputs, str):
        raise ValueError(f"mixed_outputs is {mixed_outputs!r}, but should be a list of names of outputs")
    _chosen = Policy(fallback, frozenset(mixed_outputs))


def chosen() -> Policy:
    """Return what was chosen last."""
    return _chosen
