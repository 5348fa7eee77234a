"""What the runs of every fault came to, as JSON lines: a header, and a line for each fault and each correct model."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from conformance.report.jsonl import FORMAT, ReportError


@dataclass(frozen=True)
class Tally:
    """The runs of one owner with the seeds from `begin` to `end`, the fault planted (`fault`), or none ("").

    right: how many ended as they should: with the fault caught, without it passed. raised: how many of the catches were
    an error that the call raised, and no wrong answer. wrong: the seeds that did not, and why. said: what the check
    says of the fault. scenarios: how many the runs without a fault showed.
    """

    fault: str
    check: str
    model: str
    route: str
    clauses: Tuple[str, ...]
    begin: int
    end: int
    right: int
    raised: int = 0
    wrong: Tuple[Tuple[int, str], ...] = ()
    said: str = ""
    scenarios: int = 0
    seconds: float = 0.0

    @property
    def runs(self) -> int:
        """How many runs there were."""
        return self.end - self.begin

    @property
    def key(self) -> Tuple[str, str, str, str]:
        """What is tallied: a fault, or a check on a correct model by a route."""
        return self.fault, self.model, self.check, self.route

    def __add__(self, later: Tally) -> Tally:
        return replace(
            self,
            end=later.end,
            right=self.right + later.right,
            raised=self.raised + later.raised,
            wrong=self.wrong + later.wrong,
            said=self.said or later.said,
            scenarios=self.scenarios + later.scenarios,
            seconds=round(self.seconds + later.seconds, 1),
        )


@dataclass(frozen=True)
class Proof:
    """A whole run: its header, and one tally for each fault and each correct model."""

    header: Mapping[str, Any]
    tallies: Tuple[Tally, ...]

    @property
    def faults(self) -> List[Tally]:
        """The runs with a fault planted, by owner."""
        return sorted((one for one in self.tallies if one.fault), key=lambda one: (one.check, one.fault))

    @property
    def clean(self) -> List[Tally]:
        """The runs without a fault."""
        return [one for one in self.tallies if not one.fault]

    def done(self, key: Tuple[str, str, str, str]) -> int:
        """Return the first seed that has not been run for `key`."""
        return next((one.end for one in self.tallies if one.key == key), 0)

    def uncaught(self, share: float) -> List[Tally]:
        """Return the faults that were caught in fewer than `share` of their runs."""
        return [one for one in self.faults if one.right < share * one.runs]

    @property
    def alarms(self) -> List[Tally]:
        """Return the runs on correct models that did not all pass."""
        return [one for one in self.clean if one.wrong]


def read(path: Path) -> Proof:
    """Return the proof at `path`; a line that a killed run left unfinished is passed over.

    Raises:
        ReportError: it is no proof.
    """
    header: Optional[Mapping[str, Any]] = None
    tallies: List[Tally] = []
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines[:-1], 1):
        try:
            record = json.loads(line)
            if number == 1:
                header = record if record["kind"] == "proof" and record["format"] == FORMAT else None
            else:
                tallies.append(_tally(record))
        except (ValueError, KeyError, TypeError) as error:
            raise ReportError(f"{path}, line {number}: no line of a proof: {error!r}") from None
    if header is None:
        raise ReportError(f"{path}, line 1: should be the header of a proof, of format {FORMAT}")
    return Proof(header, merged(tallies))


def write(path: Path, proof: Proof) -> None:
    """Write `proof` to `path`, one line for each tally."""
    lines = [json.dumps(proof.header), *map(to_json, proof.tallies)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def to_json(tally: Tally) -> str:
    """Return the line of `tally`."""
    return json.dumps(asdict(tally), ensure_ascii=False)


def merged(tallies: Iterable[Tally]) -> Tuple[Tally, ...]:
    """Return one tally for each key, of the seeds that follow each other."""
    found: Dict[Tuple[str, str, str, str], Tally] = {}
    for one in sorted(tallies, key=lambda tally: tally.begin):
        before = found.get(one.key)
        if before is None and one.begin == 0:
            found[one.key] = one
        elif before is not None and before.end == one.begin:
            found[one.key] = before + one
    return tuple(sorted(found.values(), key=lambda tally: tally.key))


def _tally(record: Mapping[str, Any]) -> Tally:
    known = {field.name: record[field.name] for field in fields(Tally)}
    wrong: Sequence[Tuple[int, str]] = [(seed, why) for seed, why in known["wrong"]]
    return Tally(**{**known, "wrong": tuple(wrong), "clauses": tuple(known["clauses"])})
