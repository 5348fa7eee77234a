"""A check proves one clause of the contract on one model, in one scenario at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable, Dict, Tuple

from conformance.scenarios import Draws

if TYPE_CHECKING:
    from conformance.case import Case
    from conformance.compare import Evidence
    from conformance.models import Model

Function = Callable[["Case"], "Evidence"]


@dataclass(frozen=True)
class Check:
    """A named sentence, the clauses that it proves, and the function that proves it.

    quick: whether `--quick` runs it; not what is slow and whose clause another check proves, or that compiles.
    The function raises `Mismatch` or `Vacuous`, or whatever the model raises; it returns its evidence.
    """

    name: str
    clauses: Tuple[str, ...]
    function: Function
    draws: Draws
    applies: Callable[[Model], bool]
    quick: bool = True

    def applies_to(self, model: Model) -> bool:
        """Whether the check can say anything about `model`."""
        return self.applies(model)

    @property
    def question(self) -> str:
        """What the check asks, in one sentence."""
        return (self.function.__doc__ or "").strip().split("\n")[0]


CHECKS: Dict[str, Check] = {}


def has_rows(model: Model) -> bool:
    """Whether every output of the model belongs to samples."""
    return model.has_rows


def saves_modules(model: Model) -> bool:
    """Whether adapters of the model can save modules, and its outputs belong to samples."""
    return bool(model.saved) and has_rows(model)


def check(
    *clauses: str, draws: Draws = Draws(), applies: Callable[[Model], bool] = has_rows, quick: bool = True
) -> Callable[[Function], Function]:
    """Register the decorated function as the check that proves `clauses`; its name is the sentence."""

    def register(function: Function) -> Function:
        CHECKS[function.__name__] = Check(function.__name__, clauses, function, draws, applies, quick)
        return function

    return register
