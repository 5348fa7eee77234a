"""Holds a run without the shim against the defects on record: red exactly where upstream is broken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, Mapping, Sequence, Set, Tuple

from conformance.report.jsonl import Report
from conformance.upstream.defect import Defect, explaining
from conformance.upstream.defects import DEFECTS
from conformance.verdict import Outcome, Verdict


@dataclass(frozen=True)
class Expectation:
    """What a run without the shim comes to.

    known: the failing verdicts that defects of these versions explain, each with those. surprising: the failing
    verdicts that none does. missing: verdicts that did not fail though a defect of these versions says so; for a
    defect that was to be seen somewhere and was not, the first verdict that it could have failed.
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
    unseen: Dict[Defect, Verdict] = {}
    seen: Set[Defect] = set()
    for verdict in report.verdicts:
        if verdict.outcome is Outcome.FAIL:
            by = explaining(verdict, present)
            seen.update(by)
            if by:
                known.append((verdict, by))
                continue
        if verdict.outcome.fails_the_run:
            surprising.append(verdict)
        elif verdict.outcome is not Outcome.SKIPPED:
            covering = [(defect, one) for defect in present for one in defect.seen if one.sees(verdict)]
            missing += [(verdict, defect) for defect, sighting in covering if sighting.certain][:1]
            for defect, _ in covering:
                unseen.setdefault(defect, verdict)
    known_missing = {defect for _, defect in missing}
    missing += [(verdict, defect) for defect, verdict in unseen.items() if defect not in seen | known_missing]
    return Expectation(tuple(known), tuple(surprising), tuple(missing))
