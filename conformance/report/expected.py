"""A run without the shim beside the defects on record, for the terminal."""

from __future__ import annotations

from collections import Counter
from typing import List

from conformance.upstream.expectation import Expectation
from conformance.verdict import Verdict


def render(found: Expectation) -> str:
    """Return each known defect with how often it was seen, then what is not as on record, then the result."""
    lines: List[str] = []
    counts = Counter(defect for _, defects in found.known for defect in defects)
    clauses = {defect: sorted({c for v, by in found.known if defect in by for c in v.clauses}) for defect in counts}
    for defect, count in counts.most_common():
        lines += [
            f"{count} red by {defect.name} ({', '.join(clauses[defect])}): {defect.said}",
            f"    {defect.upstream}",
        ]
    for verdict in found.surprising:
        lines += [
            "",
            f"{_title(verdict)}: {verdict.outcome.value}, but no defect on record explains it",
            verdict.detail,
        ]
        lines += [verdict.reproduction] if verdict.reproduction else []
    for verdict, defect in found.missing:
        lines += [
            "",
            f"{_title(verdict)}: {verdict.outcome.value}, but should fail by {defect.name} ({defect.upstream})",
        ]
    lines += ["", headline(found)]
    return "\n".join(lines) + "\n"


def headline(found: Expectation) -> str:
    """Return the result in one line."""
    if found.met:
        return f"AS ON RECORD: {len(found.known)} red, each by a known defect, and nothing else"
    return (
        f"NOT AS ON RECORD: {len(found.known)} red by known defects, {len(found.surprising)} by none, "
        f"{len(found.missing)} that should be red"
    )


def _title(verdict: Verdict) -> str:
    return f"{verdict.model}, {verdict.check} ({', '.join(verdict.clauses)})"
