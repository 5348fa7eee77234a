"""What the HTML page shows of merged reports: runs across, models and checks down, and every verdict in words.

Verdicts of one check on one model that say the same in several runs share one *entry*, and a text that is long or a
reproduction stands in full in the first entry that has it: the page grows with what was said, not with how often.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from conformance.report.jsonl import SEVERITY, Report
from conformance.report.versions import Environment, environments
from conformance.selection import clause_order
from conformance.upstream.defect import Defect
from conformance.verdict import Outcome, Verdict

SHORT = 160
"""Texts of as many characters are repeated wherever they were said."""

LONGEST = 4000
"""Texts are cut after as many characters; the page says so, and the JSON lines have the rest."""


@dataclass(frozen=True)
class Run:
    """One column: a merged report, under a name that no other run with the shim, or without it, has."""

    name: str
    with_shim: bool
    environment: Environment
    report: Report

    @property
    def known(self) -> Dict[Tuple[str, str], Tuple[Defect, ...]]:
        """The defects on record by (model, check), where without the shim they explain what is wrong."""
        held = None if self.with_shim else self.environment.expectation
        return {(verdict.model, verdict.check): by for verdict, by in held.known} if held else {}


class Measured(NamedTuple):
    """What was measured alike in these runs (their positions): as text, empty where nothing was compared."""

    error: str
    separation: str
    examples: int
    runs: Tuple[int, ...]


@dataclass(frozen=True)
class Entry:
    """What one check said of one model, in as many runs as it said so.

    detail_at: the anchor of the entry that has the detail in full; None where it is this one. by: the defects on record
    that make a run without the shim say so.
    """

    anchor: str
    outcome: Outcome
    finding: str
    route: str
    detail: str
    detail_at: Optional[str]
    by: Tuple[Defect, ...]
    measured: Tuple[Measured, ...]

    @property
    def runs(self) -> Tuple[int, ...]:
        """The positions of its runs."""
        return tuple(sorted(position for measured in self.measured for position in measured.runs))


@dataclass(frozen=True)
class Block:
    """Entries that one reproduction shows again; `reproduction_at` is an entry that has it in full, None for these."""

    entries: Tuple[Entry, ...]
    reproduction: str
    reproduction_at: Optional[str]


Cells = Tuple[Optional[Entry], ...]
"""For each run the entry to show; None where there is no verdict."""


@dataclass(frozen=True)
class Line:
    """One check on one model; in its blocks the worst entries come first."""

    model: str
    check: str
    clauses: Tuple[str, ...]
    blocks: Tuple[Block, ...]
    cells: Cells


@dataclass(frozen=True)
class Group:
    """The lines of a model; in its cells the worst of them."""

    model: str
    lines: Tuple[Line, ...]
    cells: Cells

    @property
    def counts(self) -> List[Tuple[Entry, int]]:
        """How many verdicts have each outcome, worst first, by an entry that has it; what a defect explains apart."""
        cells = [cell for line in self.lines for cell in line.cells if cell]
        examples = {_severity(cell.outcome, cell.by): cell for cell in cells}
        found = Counter(_severity(cell.outcome, cell.by) for cell in cells)
        return [(examples[severity], found[severity]) for severity in sorted(examples)]


@dataclass(frozen=True)
class Matrix:
    """Every verdict of the runs; `clauses` are the worst of all models, clause by clause."""

    runs: Tuple[Run, ...]
    groups: Tuple[Group, ...]
    clauses: Tuple[Tuple[str, Cells], ...]


def runs(reports: Iterable[Report]) -> Tuple[Run, ...]:
    """Return the runs of merged reports: those with the shim first, each side by the names of its environments."""
    found = environments(reports)
    names: List[str] = []
    taken: Dict[str, int] = Counter()
    for one in found:
        taken[one.name] += 1
        names.append(one.name if taken[one.name] == 1 else f"{one.name} ({taken[one.name]})")
    return tuple(
        Run(name, with_shim, one, report)
        for with_shim in (True, False)
        for name, one in zip(names, found)
        for report in [one.with_shim if with_shim else one.without_shim]
        if report
    )


def matrix(columns: Sequence[Run]) -> Matrix:
    """Return the verdicts of `columns` by model and check, models by name, checks by clause."""
    found: Dict[Tuple[str, str], Dict[int, _Said]] = {}
    for position, run in enumerate(columns):
        known = run.known
        for verdict in run.report.verdicts:
            key = (verdict.model, verdict.check)
            found.setdefault(key, {})[position] = _Said(verdict, known.get(key, ()))
    written = _Written()
    groups: Dict[str, List[Line]] = {}
    for (model, _), verdicts in sorted(found.items(), key=_in_order):
        groups.setdefault(model, []).append(_line(verdicts, len(columns), written))
    return Matrix(
        tuple(columns),
        tuple(Group(model, tuple(lines), _worst(lines)) for model, lines in groups.items()),
        _by_clause([line for lines in groups.values() for line in lines]),
    )


def defects(shown: Matrix) -> List[Tuple[Defect, Tuple[str, ...], Tuple[int, ...], int]]:
    """Return the defects on record that were seen: the clauses, the runs (their positions), how many verdicts."""
    clauses: Dict[Defect, List[str]] = {}
    seen: Dict[Defect, List[int]] = {}
    for line in (line for group in shown.groups for line in group.lines):
        for position, entry in enumerate(line.cells):
            for defect in entry.by if entry else ():
                clauses.setdefault(defect, []).extend(line.clauses)
                seen.setdefault(defect, []).append(position)
    return [
        (defect, tuple(sorted(set(clauses[defect]), key=clause_order)), tuple(sorted(set(where))), len(where))
        for defect, where in sorted(seen.items(), key=lambda item: -len(item[1]))
    ]


def measure(value: Optional[float]) -> str:
    """Return a measure as it is shown."""
    return "" if value is None else f"{value:.2g}"


class _Said(NamedTuple):
    """A verdict, and the defects on record that explain it."""

    verdict: Verdict
    by: Tuple[Defect, ...]


class _Written:
    """Where each text stands in full, and how many entries there are."""

    def __init__(self) -> None:
        self.entries = 0
        self._at: Dict[str, str] = {}

    def before(self, text: str, anchor: str) -> Optional[str]:
        """Return the anchor that has `text` already; None, and `anchor` has it from now on, where none has."""
        first = self._at.setdefault(text, anchor) if text else anchor
        return None if first == anchor else first


def _in_order(item: Tuple[Tuple[str, str], Mapping[int, _Said]]) -> Tuple[object, ...]:
    (model, check), found = item
    clauses = next(iter(found.values())).verdict.clauses
    return (model, [clause_order(clause) for clause in clauses], check)


def _line(found: Mapping[int, _Said], width: int, written: _Written) -> Line:
    by_severity = sorted(
        found, key=lambda position: (_severity(found[position].verdict.outcome, found[position].by), position)
    )
    alike: Dict[str, Dict[Tuple[object, ...], Dict[int, _Said]]] = {}
    for position in by_severity:
        verdict, by = found[position]
        said = (verdict.outcome, verdict.finding, verdict.route, verdict.detail, by)
        alike.setdefault(verdict.reproduction or "", {}).setdefault(said, {})[position] = found[position]
    blocks = tuple(_block(text, list(entries.values()), written) for text, entries in alike.items())
    at = {position: entry for block in blocks for entry in block.entries for position in entry.runs}
    worst = found[by_severity[0]].verdict
    return Line(worst.model, worst.check, worst.clauses, blocks, tuple(map(at.get, range(width))))


def _severity(outcome: Outcome, by: Sequence[Defect]) -> Tuple[int, bool]:
    """Order outcomes, worst first: what no defect on record explains is worse than what one does."""
    return SEVERITY.index(outcome), bool(by)


def _block(reproduction: str, alike: Sequence[Mapping[int, _Said]], written: _Written) -> Block:
    entries = tuple(_entry(found, written) for found in alike)
    return Block(entries, reproduction.rstrip("\n"), written.before(reproduction, entries[0].anchor))


def _entry(found: Mapping[int, _Said], written: _Written) -> Entry:
    written.entries += 1
    anchor = f"e{written.entries:x}"
    measured: Dict[Tuple[str, str, int], List[int]] = {}
    for position, (verdict, _) in found.items():
        key = (measure(verdict.error), measure(verdict.separation), verdict.examples)
        measured.setdefault(key, []).append(position)
    said, by = next(iter(found.values()))
    detail = _cut(said.detail)
    return Entry(
        anchor,
        said.outcome,
        said.finding,
        said.route,
        detail,
        written.before(detail, anchor) if len(detail) > SHORT else None,
        by,
        tuple(Measured(*numbers, runs=tuple(where)) for numbers, where in measured.items()),
    )


def _cut(text: str) -> str:
    more = len(text) - LONGEST
    return f"{text[:LONGEST]}… ({more} more characters are in the JSON lines)" if more > 0 else text


def _worst(lines: Sequence[Line]) -> Cells:
    return tuple(
        min(filter(None, column), key=lambda entry: _severity(entry.outcome, entry.by), default=None)
        for column in zip(*(line.cells for line in lines))
    )


def _by_clause(lines: Sequence[Line]) -> Tuple[Tuple[str, Cells], ...]:
    found: Dict[str, List[Line]] = {}
    for line in lines:
        for clause in line.clauses or ("?",):
            found.setdefault(clause, []).append(line)
    return tuple((clause, _worst(found[clause])) for clause in sorted(found, key=clause_order))
