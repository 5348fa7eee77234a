"""The result of reports as a badge: one small SVG file, green only where everything passed."""

from __future__ import annotations

from html import escape
from typing import Sequence, Tuple

from conformance.report.jsonl import Report, counted
from conformance.verdict import Outcome

LABEL = "mixed adapters"

GREEN, RED, GREY = "#1a7f37", "#cf222e", "#57606a"

_WORDS = {
    Outcome.FAIL: "wrong",
    Outcome.ERROR: "not examined",
    Outcome.VACUOUS: "vacuous",
    Outcome.PASS: "exact",
    Outcome.REFUSED: "refused",
}
"""In the order in which they are said; what does not apply is not."""

_HEIGHT, _PAD, _LETTER = 20, 8, 6.6


def render(reports: Sequence[Report]) -> str:
    """Return an SVG document: the label, and what all of the merged `reports` come to."""
    said, color = message(reports)
    left, right = _width(LABEL), _width(said)
    title = escape(f"{LABEL}: {said}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="{_HEIGHT}" role="img" '
        f'aria-label="{title}"><title>{title}</title>'
        f'<clipPath id="r"><rect width="{left + right}" height="{_HEIGHT}" rx="4"/></clipPath>'
        f'<g clip-path="url(#r)"><rect width="{left}" height="{_HEIGHT}" fill="#24292f"/>'
        f'<rect x="{left}" width="{right}" height="{_HEIGHT}" fill="{color}"/></g>'
        f'<g fill="#fff" font-family="Verdana, DejaVu Sans, sans-serif" font-size="11" text-anchor="middle">'
        f"{_text(left / 2, left, LABEL)}{_text(left + right / 2, right, said)}</g></svg>\n"
    )


def message(reports: Sequence[Report]) -> Tuple[str, str]:
    """Return what the badge says, and its colour.

    Red where anything is wrong, vacuous or could not be examined; grey where a run was cut short or showed nothing;
    green only where every run passed. A run without the shim counts like any other.
    """
    counts = counted(verdict for report in reports for verdict in report.verdicts)
    said = ", ".join(f"{counts[outcome]} {word}" for outcome, word in _WORDS.items() if counts[outcome])
    if any(outcome.fails_the_run and counts[outcome] for outcome in Outcome):
        return said, RED
    if not counts[Outcome.PASS]:
        return ", ".join(filter(None, ["nothing shown", said])), GREY
    if not all(report.complete for report in reports):
        return f"cut short, {said}", GREY
    if not all(report.passed for report in reports):
        return f"a run showed nothing, {said}", GREY
    return said, GREEN


def _width(text: str) -> int:
    return round(2 * _PAD + _LETTER * len(text))


def _text(middle: float, width: int, text: str) -> str:
    # The length is given, so that the letters fill their half whatever font there is.
    return f'<text x="{middle:g}" y="14" textLength="{width - 2 * _PAD}">{escape(text)}</text>'
