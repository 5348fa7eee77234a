"""What becomes of a mixed batch that cannot be proven exact in one pass: one setting for the process."""

from __future__ import annotations

SPLIT, REFUSE = "split", "refuse"

_chosen = SPLIT


def choose(fallback: str) -> None:
    """Set it: `split` by adapter where that is exact, or `refuse` at once; raise `ValueError` for another."""
    global _chosen
    if fallback not in (SPLIT, REFUSE):
        raise ValueError(f"fallback is {fallback!r}, but should be {SPLIT!r} or {REFUSE!r}")
    _chosen = fallback


def chosen() -> str:
    """Return what was set last."""
    return _chosen
