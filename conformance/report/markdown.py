"""A report as Markdown: what the README and the docs show."""

from __future__ import annotations

from typing import List, Sequence

from conformance.report.jsonl import Report
from conformance.report.summary import MARKS, extremes, facts, failures, grid, headline, refusals


def render(report: Report) -> str:
    """Return the table, the legend, the failures and the refusals as GitHub's Markdown."""
    content = grid(report.verdicts)
    lines = [f"**{_escaped(headline(report))}**  ", _escaped(facts(report)), ""]
    lines += [_row(["model", *content.clauses]), _row(["---", *(":-:" for _ in content.clauses)])]
    for model, outcomes in content.rows:
        lines.append(_row([_escaped(model), *(MARKS[outcome].symbol for outcome in outcomes)]))
    lines += ["", "  ".join(f"{mark.symbol} {mark.meaning}" for mark in MARKS.values())]
    lines += _failures(report) + _refusals(report)
    measured = extremes(report)
    if measured:
        lines += ["", _escaped(measured)]
    return "\n".join(lines) + "\n"


def _failures(report: Report) -> List[str]:
    lines: List[str] = []
    for verdict in failures(report):
        clauses = ", ".join(verdict.clauses)
        lines += [
            "",
            f"**{_escaped(verdict.model)}**, `{verdict.check}` ({clauses}), {verdict.outcome.value}: "
            f"{_escaped(verdict.detail)}",
        ]
        if verdict.reproduction:
            lines += ["", "```python", verdict.reproduction.rstrip("\n"), "```"]
    return lines


def _refusals(report: Report) -> List[str]:
    found = refusals(report)
    lines = ["", "Refused, and so neither wrong nor shown:", ""] if found else []
    return lines + [
        f"- **{_escaped(model)}** ({', '.join(clauses)}): {_escaped(reason)}" for model, clauses, reason in found
    ]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    """Return text that Markdown shows as it is, on one line."""
    for special in "\\`*_|<>[]":
        text = text.replace(special, f"\\{special}")
    return " ".join(text.split())
