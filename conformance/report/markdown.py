"""A report as Markdown: what the README and the docs show."""

from __future__ import annotations

from typing import List, Sequence

from conformance.report.jsonl import Report
from conformance.report.summary import (
    MARKS,
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


def render(report: Report) -> str:
    """Return the table, the legend, the failures and the refusals as GitHub's Markdown."""
    content = grid(report.verdicts)
    lines = [f"**{escaped(headline(report))}**  ", escaped(facts(report)), ""]
    lines += [line for omitted in not_run(report) for line in (escaped(omitted), "")]
    lines += [row(["model", *content.clauses]), row(["---", *(":-:" for _ in content.clauses)])]
    for model, outcomes in content.rows:
        lines.append(row([escaped(model), *(MARKS[outcome].symbol for outcome in outcomes)]))
    lines += ["", "  ".join(f"{mark.symbol} {mark.meaning}" for mark in MARKS.values())]
    lines += _failures(report) + expected(report) + _refusals(report)
    measured = extremes(report)
    if measured:
        lines += ["", escaped(measured)]
    return "\n".join(lines) + "\n"


def _failures(report: Report) -> List[str]:
    lines: List[str] = []
    for verdict in failures(report):
        clauses = ", ".join(verdict.clauses)
        lines += [
            "",
            f"**{escaped(verdict.model)}**, `{verdict.check}` ({clauses}), {verdict.outcome.value}: "
            f"{escaped(verdict.detail)}",
        ]
        if verdict.reproduction:
            lines += ["", "```python", verdict.reproduction.rstrip("\n"), "```"]
    return lines


def expected(report: Report) -> List[str]:
    """Return the failures that were expected, and below them those that did not come."""
    found, missed = expected_failures(report), unmet(report)
    lines = ["", "Expected to fail, as they do:", ""] if found else []
    lines += [f"- **{escaped(model)}** ({', '.join(clauses)}): {escaped(reason)}" for model, clauses, reason in found]
    lines += ["", "**Expected to fail, and do not:**", ""] if missed else []
    return lines + [f"- {escaped(line)}" for line in missed]


def _refusals(report: Report) -> List[str]:
    found = refusals(report)
    lines = ["", "Refused, and so neither wrong nor shown:", ""] if found else []
    return lines + [
        f"- **{escaped(model)}** ({', '.join(clauses)}): {escaped(reason)}" for model, clauses, reason in found
    ]


def row(cells: Sequence[str]) -> str:
    """Return one line of a table."""
    return f"| {' | '.join(cells)} |"


def shortened(text: str, longest: int) -> str:
    """Return the text on one line, cut where it is longer."""
    words = " ".join(text.split())
    return words if len(words) <= longest else words[:longest] + "…"


def escaped(text: str) -> str:
    """Return text that Markdown shows as it is, on one line."""
    for special in "\\`*_|<>[]":
        text = text.replace(special, f"\\{special}")
    return " ".join(text.split())
