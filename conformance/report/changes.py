"""What changed between a baseline and the runs at hand: verdict by verdict, in the environments that both have."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from conformance.report.matrix import Run
from conformance.verdict import Verdict

ABSENT = "absent"

BROKEN, MENDED, OTHERWISE = "wrong now, and not before", "wrong before, and not now", "otherwise than before"


@dataclass(frozen=True)
class Change:
    """One change of one check on one model, in the `runs` (their positions) that show it; worst kinds sort first."""

    kind: str
    model: str
    check: str
    was: str
    now: str
    runs: Tuple[int, ...]


@dataclass(frozen=True)
class Compared:
    """A run and the baseline's run that it was held against; None where there is none.

    new, gone: how many verdicts only this run, or only the baseline's, has of each model.
    """

    run: Run
    before: Optional[Run]
    new: Mapping[str, int]
    gone: Mapping[str, int]

    @property
    def versions(self) -> str:
        """What was installed in another version then, in words."""
        now, then = self.run.environment.packages, self.before.environment.packages if self.before else {}
        named = [name for name in ("torch", "transformers", "peft") if now.get(name) != then.get(name)]
        return ", ".join(f"{name} {then.get(name, '?')} → {now.get(name, '?')}" for name in named)


@dataclass(frozen=True)
class Changes:
    """Everything that changed, worst first, and what was held against what."""

    compared: Tuple[Compared, ...]
    changes: Tuple[Change, ...]
    not_run: Tuple[Run, ...]
    """Runs of the baseline that nothing here was held against."""


def changes(runs: Sequence[Run], baseline: Sequence[Run]) -> Changes:
    """Return what changed from `baseline` to `runs`.

    A run is held against the baseline's of the same name on the same side of the shim. Where each has one run alone on
    that side these are held against each other, as it is when a release was put in.
    """
    compared: List[Compared] = []
    found: Dict[Tuple[str, str, str, str, str], List[int]] = {}
    for position, run in enumerate(runs):
        before = _counterpart(run, runs, baseline)
        then, now = _verdicts(before), _verdicts(run)
        for key, verdict in now.items():
            change = _change(then.get(key), verdict) if before else None
            if change:
                found.setdefault((change, *key, _word(then.get(key)), _word(verdict)), []).append(position)
        new = Counter(model for model, check in now if before and (model, check) not in then)
        gone = Counter(model for model, check in then if (model, check) not in now)
        compared.append(Compared(run, before, new, gone))
    met = [id(one.before) for one in compared]
    kinds = [BROKEN, MENDED, OTHERWISE]
    listed = [Change(*what, runs=tuple(where)) for what, where in found.items()]
    listed.sort(key=lambda change: (kinds.index(change.kind), change.model, change.check, change.runs))
    return Changes(tuple(compared), tuple(listed), tuple(run for run in baseline if id(run) not in met))


def _counterpart(run: Run, runs: Sequence[Run], baseline: Sequence[Run]) -> Optional[Run]:
    alone = sum(other.with_shim == run.with_shim for other in runs) == 1
    side = [other for other in baseline if other.with_shim == run.with_shim]
    named = [other for other in side if other.name == run.name] or (side if alone else [])
    return named[0] if len(named) == 1 else None


def _verdicts(run: Optional[Run]) -> Dict[Tuple[str, str], Verdict]:
    return {(verdict.model, verdict.check): verdict for verdict in run.report.verdicts} if run else {}


def _change(then: Optional[Verdict], now: Verdict) -> Optional[str]:
    """Return the kind of change; what is new and wrong counts as broken, what is new and fine as no change."""
    if now.outcome.fails_the_run and not (then and then.outcome.fails_the_run):
        return BROKEN
    if then is None:
        return None
    if then.outcome.fails_the_run and not now.outcome.fails_the_run:
        return MENDED
    return OTHERWISE if (then.outcome, then.finding) != (now.outcome, now.finding) else None


def _word(verdict: Optional[Verdict]) -> str:
    return ABSENT if verdict is None else verdict.finding or verdict.outcome.value
