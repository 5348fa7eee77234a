"""What a check found on a model: one verdict per (model, check), and the record that reports are made of."""

from __future__ import annotations

import enum
from dataclasses import asdict, dataclass, fields
from typing import Any, Dict, Mapping, Optional, Tuple


class Outcome(str, enum.Enum):
    """How a check ended.

    PASS: shown on every scenario, with power. FAIL: an answer was wrong, or a call raised that should not.
    REFUSED: the batch was declined by name, which the contract allows (R8, F3) but does not count as shown.
    VACUOUS: the adapters were too alike to tell right from wrong. SKIPPED: the check does not apply to the
    model. ERROR: the suite itself could not do its work (the model cannot be built, or is not batchable).
    EXPECTED: one of FAIL, VACUOUS and ERROR, as the user's file of expected failures says it would be.
    """

    PASS = "pass"
    FAIL = "fail"
    REFUSED = "refused"
    VACUOUS = "vacuous"
    SKIPPED = "skipped"
    ERROR = "error"
    EXPECTED = "expected"

    @property
    def fails_the_run(self) -> bool:
        """Whether a run with this outcome exits non-zero."""
        return self in (Outcome.FAIL, Outcome.VACUOUS, Outcome.ERROR)


@dataclass(frozen=True)
class Verdict:
    """The outcome of one check on one model.

    error: the worst relative error seen; separation: the least relative distance between adapters on a row
    (the power of the comparison); both None where nothing was compared. `reproduction` is Python that can be
    pasted at a prompt. `expected` is the user's reason for an expected failure. `finding` and `route` are the
    sweep's: its finer word for the outcome, and the way that the shim took. `raised`: whether the check failed by an
    error that a call raised, and not by an answer.
    """

    model: str
    check: str
    clauses: Tuple[str, ...]
    outcome: Outcome
    detail: str = ""
    reproduction: Optional[str] = None
    error: Optional[float] = None
    separation: Optional[float] = None
    examples: int = 0
    seconds: float = 0.0
    finding: str = ""
    route: str = ""
    expected: str = ""
    raised: bool = False

    def to_record(self) -> Dict[str, Any]:
        """Return the verdict as JSON-ready data."""
        return {**asdict(self), "clauses": list(self.clauses), "outcome": self.outcome.value}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Verdict:
        """Return the verdict that `to_record` gave `record` for; unknown keys are passed over."""
        known = {field.name: record[field.name] for field in fields(cls) if field.name in record}
        known["clauses"] = tuple(known["clauses"])
        known["outcome"] = Outcome(known["outcome"])
        return cls(**known)
