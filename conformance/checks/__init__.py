"""The contract as checks, one file per chapter; importing them imports no torch."""

from conformance.checks import (
    algebra,
    decoding,
    distributed,
    engines,
    generation,
    heads,
    loading,
    own_adapters,
    packed,
    pipelines,
    refusals,
    rows,
    saving,
    state,
    training,
    weighted,
)
from conformance.checks.check import CHECKS, Check, check

__all__ = [
    "CHECKS",
    "Check",
    "algebra",
    "check",
    "decoding",
    "distributed",
    "engines",
    "generation",
    "heads",
    "loading",
    "own_adapters",
    "packed",
    "pipelines",
    "refusals",
    "rows",
    "saving",
    "state",
    "training",
    "weighted",
]
