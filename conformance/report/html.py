"""Reports, changes since a baseline, and benches as one HTML page that needs nothing but itself.

Everything is in the page's own words and tables: a script of a few lines filters and opens, and is not needed to read.
The page's policy lets a browser run that script and that style, known by their hashes, and load nothing at all.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from conformance.report.benches import HEIGHT, WIDTH, Bench
from conformance.report.changes import BROKEN, MENDED, OTHERWISE, changes
from conformance.report.environment import command
from conformance.report.expected import headline as as_on_record
from conformance.report.jsonl import Report, counted
from conformance.report.markdown import shortened
from conformance.report.matrix import SHORT, Line, Matrix, Run, defects, matrix, runs
from conformance.report.summary import MARKS, extremes, facts, headline
from conformance.verdict import Outcome

_FOLDER = Path(__file__).with_name("page")

LETTERS: Mapping[Outcome, str] = {outcome: outcome.value[0] for outcome in Outcome}
"""The class of what has this outcome: one letter, since there are many."""

_KINDS = ((BROKEN, Outcome.FAIL), (MENDED, Outcome.PASS), (OTHERWISE, Outcome.SKIPPED))


@dataclass(frozen=True)
class Result:
    """What a run came to: the class of its colour, one word or three, and the rest of the line."""

    letter: str
    word: str
    rest: str


@dataclass(frozen=True)
class Side:
    """All runs with the shim, or all without it."""

    title: str
    with_shim: bool
    runs: Tuple[Run, ...]
    results: Tuple[Result, ...]

    @property
    def counts(self) -> List[Tuple[Outcome, int]]:
        """How many verdicts have each outcome; of those that none has only pass and fail are told."""
        found = counted(verdict for run in self.runs for verdict in run.report.verdicts)
        always = (Outcome.PASS, Outcome.FAIL)
        return [(outcome, found[outcome]) for outcome in MARKS if found[outcome] or outcome in always]

    @property
    def told(self) -> List[Tuple[str, str]]:
        """What its runs come to, in words, each with the class of its colour."""
        every = len(self.runs)
        passed = sum(run.report.passed for run in self.runs)
        said = [("p" if passed == every else "f", f"{passed} of {every} runs passed")]
        if not self.with_shim:
            held = sum(result.letter == "p" for result in self.results)
            said.append(("p" if held == every else "f", f"{held} of {every} as on record"))
        return said


def render(
    reports: Sequence[Report], baseline: Optional[Sequence[Report]] = None, benches: Sequence[Bench] = ()
) -> str:
    """Return the page of merged reports; `baseline` is merged too, None where nothing is compared.

    Raises:
        ImportError: jinja2 is not installed.
    """
    columns = runs(reports)
    sides = _sides(columns)
    shown = matrix(columns)
    style, script = ((_FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    page: str = _template().render(
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        command=command(),
        sides=sides,
        environments=_environments(sides),
        matrix=shown,
        edge=len(sides[0].runs) if len(sides) == 2 else 0,
        defects=defects(shown),
        by_clause=_by_clause(shown),
        anchors={
            (line.model, line.check): line.blocks[0].entries[0].anchor for group in shown.groups for line in group.lines
        },
        changes=None if baseline is None else changes(columns, runs(baseline)),
        benches=benches,
    )
    return page


def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(str(_FOLDER)),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        marks=MARKS,
        letters=LETTERS,
        kinds=_KINDS,
        short=SHORT,
        width=WIDTH,
        height=HEIGHT,
        facts=facts,
        headline=headline,
        extremes=extremes,
    )
    environment.filters.update(sentence=_sentence, shortened=shortened, where=_where, between_tags=_between_tags)
    return environment.get_template("page.html")


def _result(run: Run) -> Result:
    """Hold a run without the shim against upstream's defects on record: there, red is right."""
    held = None if run.with_shim else run.environment.expectation
    if held is None:
        word, _, rest = headline(run.report).partition(": ")
        return Result({"PASSED": "p", "FAILED": "f"}.get(word, "s"), word, rest)
    word, _, rest = as_on_record(held).partition(": ")
    if not run.report.complete:
        return Result("s", "CUT SHORT", rest)
    return Result("p" if held.met else "f", word, rest)


def _sides(columns: Sequence[Run]) -> List[Side]:
    sides = []
    for with_shim, title in ((True, "With the shim"), (False, "Without the shim")):
        found = tuple(run for run in columns if run.with_shim == with_shim)
        if found:
            sides.append(Side(title, with_shim, found, tuple(map(_result, found))))
    return sides


def _environments(sides: Sequence[Side]) -> Dict[str, Dict[bool, Tuple[Run, Result]]]:
    """Return the runs of each environment, by their side."""
    found: Dict[str, Dict[bool, Tuple[Run, Result]]] = {}
    for side in sides:
        for run, result in zip(side.runs, side.results):
            found.setdefault(run.name, {})[side.with_shim] = (run, result)
    return dict(sorted(found.items()))


def _by_clause(shown: Matrix) -> Dict[str, List[str]]:
    """Return the names of the checks that prove each clause."""
    lines = [line for group in shown.groups for line in group.lines]
    return {
        clause: sorted({line.check for line in lines if clause in (line.clauses or ("?",))})
        for clause, _ in shown.clauses
    }


def _sentence(check: str) -> str:
    """Return the name of a check as the sentence that it is."""
    return check.replace("_", " ")


def _where(positions: Sequence[int], columns: Sequence[Run], line: Optional[Line] = None) -> str:
    """Return the runs at `positions` in words; "all 20" where `line` has verdicts in no others on that side.

    The side is named where there are two.
    """
    said = []
    both = len({run.with_shim for run in columns}) == 2
    for with_shim, side in ((True, "with the shim: "), (False, "without it: ")):
        side = side if both else ""
        here = [position for position in positions if columns[position].with_shim == with_shim]
        there = [run for run, cell in zip(columns, line.cells) if cell and run.with_shim == with_shim] if line else []
        if len(here) > 2 and len(here) == len(there):
            said.append(f"{side}all {len(here)}")
        elif here:
            said.append(f"{side}{', '.join(_spans([columns[position].name for position in here], here))}")
    return "; ".join(said)


def _spans(names: Sequence[str], positions: Sequence[int]) -> List[str]:
    """Return the names, neighbours in a row (three or more) as the first and the last."""
    spans: List[List[str]] = []
    for index, (name, position) in enumerate(zip(names, positions)):
        if index and positions[index - 1] == position - 1:
            spans[-1].append(name)
        else:
            spans.append([name])
    told = [[f"{span[0]} to {span[-1]}"] if len(span) > 2 else span for span in spans]
    return [name for span in told for name in span]


def _between_tags(text: str) -> Any:
    """Return `text` escaped for a place between tags, where quotes are letters: reproductions are full of them."""
    from markupsafe import Markup

    return Markup(escape(text, quote=False))


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
