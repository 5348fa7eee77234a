"""What a report comes to, in words and in cells: shared by the table and the Markdown."""

from __future__ import annotations

import math
from typing import Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from conformance.report.jsonl import Report, counted, worst
from conformance.report.result import result
from conformance.selection import clause_order
from conformance.verdict import Outcome, Verdict


class Mark(NamedTuple):
    """How an outcome looks in a cell, and what the legend says of it."""

    symbol: str
    ascii: str
    color: str
    meaning: str


MARKS: Mapping[Outcome, Mark] = {
    Outcome.PASS: Mark("✓", "+", "green", "shown"),
    Outcome.FAIL: Mark("✗", "X", "red", "wrong"),
    Outcome.ERROR: Mark("!", "E", "red", "could not be examined"),
    Outcome.VACUOUS: Mark("∅", "V", "red", "vacuous: adapters too alike to tell"),
    Outcome.EXPECTED: Mark("x", "x", "yellow", "fails, as expected"),
    Outcome.REFUSED: Mark("○", "R", "yellow", "refused by name"),
    Outcome.SKIPPED: Mark("·", ".", "dim", "does not apply"),
}


class Grid(NamedTuple):
    """Models down, clauses across, and in each cell the worst that was found there."""

    clauses: Tuple[str, ...]
    rows: Tuple[Tuple[str, Tuple[Outcome, ...]], ...]


def grid(verdicts: Sequence[Verdict]) -> Grid:
    """Return the table's content; a cell that no check is for is `SKIPPED`."""
    found: Dict[Tuple[str, str], List[Outcome]] = {}
    for verdict in verdicts:
        # A check that was never listed has no clause, but its outcome must not be lost.
        for clause in verdict.clauses or ("?",):
            found.setdefault((verdict.model, clause), []).append(verdict.outcome)
    clauses = tuple(sorted({clause for _, clause in found}, key=clause_order))
    models = sorted({model for model, _ in found})
    return Grid(
        clauses,
        tuple(
            (model, tuple(worst(found.get((model, clause), [Outcome.SKIPPED])) for clause in clauses))
            for model in models
        ),
    )


def facts(report: Report) -> str:
    """Return where the verdicts hold, in one line."""
    return f"{stack(report)}, {'with the shim' if report.with_shim else 'without the shim'}"


def stack(report: Report) -> str:
    """Return what was run: the versions that decide, and the device."""
    environment = report.header.get("environment", {})
    packages = environment.get("packages", {})
    parts = [f"python {environment.get('python', '?')}"]
    parts += [f"{name} {packages[name]}" for name in ("torch", "transformers", "peft") if name in packages]
    return ", ".join([*parts, str(environment.get("device", "?"))])


def headline(report: Report) -> str:
    """Return the run's result in one line; it says PASSED only where `report.passed`."""
    counts = counted(report.verdicts)
    said = ", ".join(f"{counts[outcome]} {outcome.value}" for outcome in MARKS if counts[outcome])
    models = len({verdict.model for verdict in report.verdicts})
    seconds = report.footer.get("seconds")
    took = f" in {seconds:.0f} s" if seconds is not None else ""
    return f"{result(report).value}: {said or 'no verdict'} on {models} model{'s' * (models != 1)}{took}"


def failures(report: Report) -> List[Verdict]:
    """Return the verdicts that fail the run, by model and check."""
    return sorted((verdict for verdict in report.verdicts if verdict.outcome.fails_the_run), key=_by_name)


def expected_failures(report: Report) -> List[Tuple[str, Tuple[str, ...], str]]:
    """Return (model, clauses, reason) of what failed as expected; one entry for all checks of one reason."""
    return _by_reason(report, Outcome.EXPECTED, lambda verdict: verdict.expected)


def refusals(report: Report) -> List[Tuple[str, Tuple[str, ...], str]]:
    """Return (model, clauses, reason) of what was refused; one entry for all checks that met one reason."""
    return _by_reason(report, Outcome.REFUSED, lambda verdict: verdict.detail)


def _by_reason(
    report: Report, outcome: Outcome, reason_of: Callable[[Verdict], str]
) -> List[Tuple[str, Tuple[str, ...], str]]:
    found: Dict[Tuple[str, str], List[str]] = {}
    for verdict in sorted(report.verdicts, key=_by_name):
        if verdict.outcome is outcome:
            found.setdefault((verdict.model, reason_of(verdict)), []).extend(verdict.clauses)
    return [
        (model, tuple(sorted(set(clauses), key=clause_order)), reason) for (model, reason), clauses in found.items()
    ]


def unmet(report: Report) -> List[str]:
    """Return a line for each expected failure that did not come."""
    return [
        f"{entry['name']} ({entry['where']}) should fail, but does not: {entry['said']}. Take it out of the file"
        for entry in report.unmet
    ]


def not_run(report: Report) -> List[str]:
    """Return in words what the run was told to leave out, or asked for in vain; nothing where it was not."""
    choice = report.header.get("choice", {})
    left_out = choice.get("left_out", ())
    lines = []
    if "left_out" in choice:
        examples = report.header.get("settings", {}).get("examples")
        said = f"Quick: {examples} scenarios for each check"
        lines.append(f"{said}; not run: {', '.join(left_out) or 'nothing'}. Leave out --quick for all of them.")
    if choice.get("inapplicable"):
        lines.append(f"Asked for, but applies to none of these models: {', '.join(choice['inapplicable'])}.")
    if report.shard:
        lines.append(f"Shard {report.shard}: the rest is in the other shards' reports, which `report` merges.")
    return lines


def extremes(report: Report) -> Optional[str]:
    """Return the worst error and least separation of what passed, and where; None if nothing was measured."""
    passed = [verdict for verdict in report.verdicts if verdict.outcome is Outcome.PASS]
    errors = [(_rank(verdict.error), verdict) for verdict in passed if verdict.error is not None]
    gaps = [(verdict.separation, verdict) for verdict in passed if verdict.separation is not None]
    said = []
    if errors:
        error, verdict = max(errors, key=lambda pair: pair[0])
        place = f" ({verdict.model}, {verdict.check})" if error else ""
        said.append(f"worst relative error {error:.2g}{place}")
    if gaps:
        gap, verdict = min(gaps, key=lambda pair: pair[0])
        said.append(f"least separation of adapters {gap:.2g} ({verdict.model}, {verdict.check})")
    return f"Of what passed: {'; '.join(said)}" if said else None


def _rank(error: Optional[float]) -> float:
    """Order errors; nan is as bad as can be."""
    return math.inf if error is None or math.isnan(error) else error


def _by_name(verdict: Verdict) -> Tuple[str, str]:
    return (verdict.model, verdict.check)
