"""Holds a run without the shim against the defects on record: red exactly where upstream is broken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, Mapping, Sequence, Tuple

from conformance.models import MODELS
from conformance.report.jsonl import Report
from conformance.upstream.defect import Defect, Sighting
from conformance.upstream.defects import DEFECTS
from conformance.verdict import Outcome, Verdict


@dataclass(frozen=True)
class Expectation:
    """What a run without the shim comes to.

    known: the failing verdicts that a defect of these versions explains, each with those defects. surprising: those
    that none does. missing: verdicts that did not fail though a defect of these versions says so, or a defect that
    comes by chance and was seen nowhere (its verdicts are told by the first).
    """

    known: Tuple[Tuple[Verdict, Tuple[Defect, ...]], ...]
    surprising: Tuple[Verdict, ...]
    missing: Tuple[Tuple[Verdict, Defect], ...]

    @property
    def met(self) -> bool:
        """Whether the run is red exactly where the record says."""
        return not self.surprising and not self.missing


def expectation(report: Report, defects: Sequence[Defect] = DEFECTS) -> Expectation:
    """Return how the verdicts of `report`, a run without the shim, compare with `defects`."""
    packages: Mapping[str, str] = report.header.get("environment", {}).get("packages", {})
    present = [defect for defect in defects if defect.is_in(packages)]
    known: List[Tuple[Verdict, Tuple[Defect, ...]]] = []
    surprising: List[Verdict] = []
    missing: List[Tuple[Verdict, Defect]] = []
    chances: Dict[str, _Chance] = {}
    for verdict in report.verdicts:
        covering = _covering(present, verdict)
        for defect, sighting in covering:
            if sighting.by_chance:
                chances.setdefault(defect.name, _Chance(defect, verdict)).count(verdict)
        if verdict.outcome.fails_the_run:
            by = tuple(dict.fromkeys(defect for defect, sighting in covering if sighting.explains(verdict)))
            if by and verdict.outcome is Outcome.FAIL:
                known.append((verdict, by))
            else:
                surprising.append(verdict)
        else:
            sure = [defect for defect, sighting in covering if not sighting.by_chance]
            missing += [(verdict, sure[0])] if sure and verdict.outcome is not Outcome.SKIPPED else []
    missing += [(chance.first, chance.defect) for chance in chances.values() if not chance.seen]
    return Expectation(tuple(known), tuple(surprising), tuple(missing))


class _Chance:
    """Whether a defect that comes by chance was seen at all."""

    def __init__(self, defect: Defect, first: Verdict) -> None:
        self.defect, self.first, self.seen = defect, first, False

    def count(self, verdict: Verdict) -> None:
        self.seen = self.seen or verdict.outcome is Outcome.FAIL


def _covering(present: Sequence[Defect], verdict: Verdict) -> List[Tuple[Defect, Sighting]]:
    """Return the defects that make this check fail on this model, each with where that was seen."""
    model = MODELS.get(verdict.model)
    if model is None:
        return []
    return [
        (defect, sighting) for defect in present for sighting in defect.seen if sighting.covers(model, verdict.check)
    ]
