"""Reports as one SVG picture: a table of models and clauses for each, side by side."""

from __future__ import annotations

from html import escape
from typing import List, Sequence

from conformance.report.jsonl import Report
from conformance.report.summary import MARKS, Grid, facts, grid, headline
from conformance.verdict import Outcome

_FILL = {
    Outcome.PASS: "#2da44e",
    Outcome.FAIL: "#cf222e",
    Outcome.ERROR: "#82071e",
    Outcome.VACUOUS: "#8250df",
    Outcome.EXPECTED: "#bf8700",
    Outcome.REFUSED: "#d4a72c",
    Outcome.SKIPPED: "#d0d7de",
}
_ROW, _CELL, _NAMES, _TOP, _GAP, _LEGEND = 20, 26, 232, 66, 36, 40


def render(reports: Sequence[Report]) -> str:
    """Return an SVG document with one table for each report, titled by its result and environment."""
    grids = [grid(report.verdicts) for report in reports]
    widths = [_NAMES + _CELL * len(content.clauses) for content in grids]
    height = _TOP + _ROW * max((len(content.rows) for content in grids), default=0) + _LEGEND
    body: List[str] = []
    left = 12
    for report, content, width in zip(reports, grids, widths):
        body += _table(report, content, left)
        left += width + _GAP
    body += _legend(height - 14)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left}" height="{height}" '
        f'viewBox="0 0 {left} {height}" font-family="ui-monospace, Menlo, Consolas, monospace" font-size="12">'
        f'<rect width="{left}" height="{height}" fill="#ffffff"/>{"".join(body)}</svg>\n'
    )


def _table(report: Report, content: Grid, left: int) -> List[str]:
    parts = [
        _text(left, 16, headline(report), weight="bold"),
        _text(left, 34, facts(report), fill="#57606a"),
    ]
    for column, clause in enumerate(content.clauses):
        parts.append(_text(left + _NAMES + _CELL * column + _CELL / 2 - 1, _TOP - 8, clause, anchor="middle"))
    for row, (model, outcomes) in enumerate(content.rows):
        top = _TOP + _ROW * row
        parts.append(_text(left, top + 14, model))
        for column, outcome in enumerate(outcomes):
            x = left + _NAMES + _CELL * column
            parts.append(
                f'<rect x="{x}" y="{top}" width="{_CELL - 2}" height="{_ROW - 2}" rx="3" fill="{_FILL[outcome]}"/>'
            )
            mark = MARKS[outcome].symbol
            parts.append(_text(x + _CELL / 2 - 1, top + 13, mark, fill="#ffffff", anchor="middle"))
    return parts


def _legend(top: int) -> List[str]:
    parts, left = [], 12
    for outcome, mark in MARKS.items():
        parts.append(f'<rect x="{left}" y="{top - 11}" width="14" height="14" rx="3" fill="{_FILL[outcome]}"/>')
        parts.append(_text(left + 20, top, mark.meaning, fill="#57606a"))
        left += 44 + 8 * len(mark.meaning)
    return parts


def _text(
    x: float,
    y: float,
    text: str,
    *,
    fill: str = "#24292f",
    anchor: str = "start",
    weight: str = "",
) -> str:
    bold = f' font-weight="{weight}"' if weight else ""
    return f'<text x="{x}" y="{y}" fill="{fill}" text-anchor="{anchor}"{bold}>{escape(text)}</text>'
