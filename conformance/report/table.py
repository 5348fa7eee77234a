"""A report for the terminal: the table of models and clauses, and below it what a reader must know of it."""

from __future__ import annotations

from io import StringIO
from typing import Any, List, Tuple

from conformance.report.jsonl import Report
from conformance.report.models import count_lines, swept
from conformance.report.summary import (
    MARKS,
    Grid,
    expected_failures,
    extremes,
    facts,
    failures,
    grid,
    headline,
    not_run,
    refusals,
    unmet,
)
from conformance.verdict import Outcome, Verdict

_MOST_REFUSALS = 40

Line = Tuple[str, str]
"""A line and its colour, in rich's words."""


def render(report: Report, *, color: bool = False, unicode: bool = True, reproductions: bool = True) -> str:
    """Return the report as text; coloured by rich where it is installed and `color` is wanted."""
    content = grid([verdict for verdict in report.verdicts if not verdict.finding])
    above = [(facts(report), "")]
    below = [(_legend(unicode), "dim")] if content.rows else []
    below += [*_failures(report, reproductions), *_expected(report), *_refusals(report)]
    counted = count_lines(swept(report))
    below += [("", ""), *((line, "") for line in counted)] if counted else []
    measured, omitted = extremes(report), not_run(report)
    if measured:
        below += [("", ""), (measured, "")]
    below += [("", ""), *((line, "yellow") for line in omitted)] if omitted else []
    below += [("", ""), (headline(report), "bold green" if report.passed else "bold red")]
    try:
        return _with_rich(content, above, below, color, unicode)
    except ImportError:
        return _plain(content, above, below, unicode)


def speaks_unicode(stream: Any) -> bool:
    """Whether the table's symbols can be written to `stream`."""
    encoding = getattr(stream, "encoding", None) or "ascii"
    try:
        "".join(mark.symbol for mark in MARKS.values()).encode(encoding)
        "─".encode(encoding)
    except (LookupError, UnicodeEncodeError):
        return False
    return True


def _with_rich(content: Grid, above: List[Line], below: List[Line], color: bool, unicode: bool) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    text = StringIO()
    # So wide that nothing is ever cropped: a cell out of sight could be the one that fails.
    console = Console(
        file=text,
        width=100_000,
        force_terminal=color,
        color_system="standard" if color else None,
        legacy_windows=False,
    )
    for line, style in above:
        console.print(Text(line, style=style), soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD if unicode else box.ASCII, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("model", no_wrap=True)
    for clause in content.clauses:
        table.add_column(clause, no_wrap=True, justify="center")
    for model, outcomes in content.rows:
        cells = [Text(_symbol(outcome, unicode), style=MARKS[outcome].color) for outcome in outcomes]
        table.add_row(Text(model), *cells)
    if content.rows:
        console.print(table)
    for line, style in below:
        console.print(Text(line, style=style), soft_wrap=True)
    return text.getvalue()


def _plain(content: Grid, above: List[Line], below: List[Line], unicode: bool) -> str:
    wide = max([len("model"), *(len(model) for model, _ in content.rows)])
    rows = ["  ".join(["model".ljust(wide), *content.clauses])]
    for model, outcomes in content.rows:
        cells = [_symbol(outcome, unicode).center(len(clause)) for outcome, clause in zip(outcomes, content.clauses)]
        rows.append("  ".join([model.ljust(wide), *cells]).rstrip())
    shown = ["", *rows, ""] if content.rows else []
    lines = [line for line, _ in above] + shown + [line for line, _ in below]
    return "\n".join(lines) + "\n"


def _symbol(outcome: Outcome, unicode: bool) -> str:
    return MARKS[outcome].symbol if unicode else MARKS[outcome].ascii


def _legend(unicode: bool) -> str:
    return "  ".join(f"{_symbol(outcome, unicode)} {mark.meaning}" for outcome, mark in MARKS.items())


def _failures(report: Report, reproductions: bool) -> List[Line]:
    lines: List[Line] = []
    for verdict in failures(report):
        lines += [("", ""), (f"{_title(verdict)}: {verdict.outcome.value}", "bold red"), (verdict.detail, "")]
        if reproductions and verdict.reproduction:
            # Never indented: it is there to be pasted at a prompt.
            lines += [("", ""), *((line, "") for line in verdict.reproduction.splitlines())]
    return lines


def _expected(report: Report) -> List[Line]:
    found, missed = expected_failures(report), unmet(report)
    lines: List[Line] = [("", ""), ("Expected to fail, as they do:", "yellow")] if found else []
    lines += [(f"  {model} ({', '.join(clauses)}): {reason}", "") for model, clauses, reason in found]
    if missed:
        lines += [("", ""), ("Expected to fail, and do not:", "bold red"), *((f"  {line}", "") for line in missed)]
    return lines


def _refusals(report: Report) -> List[Line]:
    found = refusals(report)
    lines: List[Line] = [("", ""), ("Refused, and so neither wrong nor shown:", "yellow")] if found else []
    lines += [(f"  {model} ({', '.join(clauses)}): {reason}", "") for model, clauses, reason in found[:_MOST_REFUSALS]]
    more = len(found) - _MOST_REFUSALS
    return lines + ([(f"  and {more} more, which --models-markdown lists", "")] if more > 0 else [])


def _title(verdict: Verdict) -> str:
    return f"{verdict.model}, {verdict.check} ({', '.join(verdict.clauses)})"
