"""What a run comes to: the word that every view begins with, and the exit code."""

from __future__ import annotations

import enum

from conformance.report.jsonl import Report
from conformance.verdict import Outcome


class Result(enum.Enum):
    """A word and its exit code; 2 is wrong usage, which has no report.

    FAILED: an answer was wrong, an expected failure did not come, a check could not be examined, or one was vacuous
    beside what was shown. NOTHING_SHOWN: no check passed and none failed: all were refused, vacuous, expected to fail
    or do not apply.
    CUT_SHORT: the run was interrupted or died, and nothing was wrong until then.
    """

    PASSED = "PASSED"
    FAILED = "FAILED"
    NOTHING_SHOWN = "NOTHING SHOWN"
    CUT_SHORT = "CUT SHORT"

    @property
    def code(self) -> int:
        """The exit code."""
        return {Result.PASSED: 0, Result.FAILED: 1, Result.NOTHING_SHOWN: 3, Result.CUT_SHORT: 4}[self]


def exit_code(report: Report) -> int:
    """Return the exit code; a shard in which nothing was shown leaves that to the others, unless something failed."""
    found = result(report)
    nothing_wrong = not any(verdict.outcome.fails_the_run for verdict in report.verdicts)
    if found is Result.NOTHING_SHOWN and nothing_wrong and report.shard:
        return Result.PASSED.code
    return found.code


def result(report: Report) -> Result:
    """Return what `report` comes to; PASSED only where `report.passed`."""
    outcomes = {verdict.outcome for verdict in report.verdicts}
    shown = Outcome.PASS in outcomes
    # Where nothing else was found either, vacuous checks show nothing, rather than something that is wrong.
    fails = outcomes & {Outcome.FAIL, Outcome.ERROR, *([Outcome.VACUOUS] if shown else [])}
    if fails or report.unmet:
        return Result.FAILED
    if not report.complete:
        return Result.CUT_SHORT
    return Result.PASSED if shown else Result.NOTHING_SHOWN
