"""What the sweep can find of a model under one stage of adapters, and the verdict that says so in a report."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Optional, Tuple

from conformance.verdict import Outcome, Verdict

CLAUSES: Tuple[str, ...] = ("R7",)


class Finding(str, enum.Enum):
    """How a model fared; the words are those of the reports."""

    ONE_PASS = "exact in one pass"
    SPLIT = "exact by split"
    EXACT = "exact"
    """By a route that is not known: without the shim, or with one that does not explain itself."""
    REFUSED = "refused"
    WRONG = "WRONG"
    NOT_BATCHABLE = "not batchable by itself"
    VACUOUS = "vacuous"
    CANNOT_BUILD = "cannot build"
    NOTHING_TO_ADAPT = "nothing to adapt"
    TIME_OUT = "time-out"
    CRASHED = "crashed"

    @property
    def outcome(self) -> Outcome:
        """The outcome in the words of the suite."""
        return _OUTCOMES[self]


_OUTCOMES = {
    Finding.ONE_PASS: Outcome.PASS,
    Finding.SPLIT: Outcome.PASS,
    Finding.EXACT: Outcome.PASS,
    Finding.REFUSED: Outcome.REFUSED,
    Finding.WRONG: Outcome.FAIL,
    Finding.NOT_BATCHABLE: Outcome.SKIPPED,
    Finding.VACUOUS: Outcome.VACUOUS,
    Finding.CANNOT_BUILD: Outcome.SKIPPED,
    Finding.NOTHING_TO_ADAPT: Outcome.SKIPPED,
    Finding.TIME_OUT: Outcome.SKIPPED,
    Finding.CRASHED: Outcome.ERROR,
}


@dataclass(frozen=True)
class Judgement:
    """A finding, its reason, and what was measured on the way to it."""

    finding: Finding
    detail: str = ""
    route: str = "unknown"
    error: Optional[float] = None
    separation: Optional[float] = None
    examples: int = 0
    reproduction: Optional[str] = None

    def verdict(self, model: str, stage: str, seconds: float, clauses: Tuple[str, ...] = CLAUSES) -> Verdict:
        """Return the record of this judgement on `model` under `stage`, by `clauses` of the contract."""
        return Verdict(
            model=model,
            check=stage,
            clauses=clauses,
            outcome=self.finding.outcome,
            detail=self.detail,
            reproduction=self.reproduction,
            error=self.error,
            separation=self.separation,
            examples=self.examples,
            seconds=seconds,
            finding=self.finding.value,
            route=self.route,
        )
