"""The sweep's part of a report: counts by finding, and the page of every model type with every exception."""

from __future__ import annotations

from collections import Counter
from typing import Dict, Iterable, List, Optional, Sequence, Tuple

from conformance.report.jsonl import Report
from conformance.report.markdown import escaped, row, shortened
from conformance.report.summary import facts
from conformance.sweep.finding import Finding
from conformance.sweep.stages import STAGES
from conformance.verdict import Verdict

SYMBOLS: Dict[Finding, str] = {
    Finding.ONE_PASS: "✓",
    Finding.SPLIT: "✓s",
    Finding.EXACT: "✓?",
    Finding.REFUSED: "○",
    Finding.WRONG: "✗",
    Finding.NOT_BATCHABLE: "≁",
    Finding.VACUOUS: "∅",
    Finding.CANNOT_BUILD: "-",
    Finding.NOTHING_TO_ADAPT: "·",
    Finding.TIME_OUT: "t",
    Finding.CRASHED: "!",
}

NO_CLASS = "configuration only"
KINDS = (
    ("is registered with a configuration and no class of its own", NO_CLASS),
    ("needs an optional package", "library but it was not found"),
    ("has no forward pass of a batch", 'missing the required "forward" function'),
    ("has no forward pass of a batch", "inference_session"),
)
"""Why a class cannot run here, and the words in the reason that tell; any other reason is the suite's to mend."""

OURS = "could run, but the suite cannot configure or feed it"

_UNREMARKABLE = (Finding.ONE_PASS, Finding.SPLIT, Finding.EXACT, Finding.NOTHING_TO_ADAPT)
_LONGEST = 240


def swept(report: Report) -> List[Verdict]:
    """Return the verdicts that the sweep gave, by model and in the order of the stages."""
    order = list(STAGES)
    found = [verdict for verdict in report.verdicts if verdict.finding and verdict.check in order]
    return sorted(found, key=lambda verdict: (verdict.model, order.index(verdict.check)))


def counts(verdicts: Iterable[Verdict]) -> List[Tuple[str, List[int]]]:
    """Return (finding, how often under each stage) for each finding that there is, in the order of `Finding`."""
    counted = Counter((verdict.finding, verdict.check) for verdict in verdicts)
    table = [(finding.value, [counted[finding.value, stage] for stage in STAGES]) for finding in Finding]
    return [(finding, numbers) for finding, numbers in table if any(numbers)]


def count_lines(verdicts: Sequence[Verdict]) -> List[str]:
    """Return the counts as lines of text for a terminal; none where nothing was swept."""
    table = counts(verdicts)
    if not table:
        return []
    wide = max(len(finding) for finding, _ in table)
    heads = [stage.replace("_", " ") for stage in STAGES]
    lines = ["  ".join([" " * wide, *heads])]
    for finding, numbers in table:
        cells = [str(number).rjust(len(head)) for number, head in zip(numbers, heads)]
        lines.append("  ".join([finding.ljust(wide), *cells]))
    return lines


def render(report: Report, upstream: Optional[Report] = None) -> str:
    """Return the page `docs/models.md`: versions, counts, a row for each class, and each exception with its reason.

    upstream: the same without the shim, whose counts stand beside.
    """
    verdicts = swept(report)
    models = sorted({verdict.model for verdict in verdicts})
    lines = [
        "# Every model type",
        "",
        f"Made by `python -m conformance report … --models-markdown docs/models.md` from a run of "
        f"`{escaped(str(report.header.get('command')))}`, {report.header.get('started', '?')}:",
        f"{escaped(facts(report))}.",
        "",
        f"{len(models)} classes: the base class of every model type that transformers registers, a task head where it "
        "has one, and the types that are registered with a configuration alone. Each row of a mixed batch is held "
        "against that row alone under its adapter.",
        "",
        *_coverage(verdicts),
        "",
        *_counts(verdicts),
        "",
        *_beside(upstream),
        *(f"- `{stage}`: {meaning}" for stage, meaning in STAGES.items()),
        "",
        "## Exceptions",
        *_exceptions(verdicts),
        "",
        "## Every class",
        "",
        "  ".join(f"{symbol} {finding.value}" for finding, symbol in SYMBOLS.items()),
        "",
        row(["class", *STAGES]),
        row(["---", *(":-:" for _ in STAGES)]),
        *_rows(verdicts, models),
    ]
    return "\n".join(lines) + "\n"


def _counts(verdicts: Sequence[Verdict]) -> List[str]:
    """Return the counts as a table of Markdown, of the stages that the run had."""
    judged = {verdict.check for verdict in verdicts}
    had = [stage for stage in STAGES if stage in judged]
    lines = [row(["", *had]), row(["---", *("--:" for _ in had)])]
    for finding, numbers in counts(verdicts):
        lines.append(row([finding, *(str(number) for stage, number in zip(STAGES, numbers) if stage in judged)]))
    return lines


def _beside(upstream: Optional[Report]) -> List[str]:
    """Return what the same run found without the shim."""
    if upstream is None:
        return []
    command = escaped(str(upstream.header.get("command")))
    said = f"The same without the shim, `{command}`, {upstream.header.get('started', '?')}:"
    return [said, "", *_counts(swept(upstream)), ""]


def kind_of(reason: str) -> str:
    """Return which kind of reason for not running this is."""
    return next((kind for kind, words in KINDS if words in reason), OURS)


def coverage(verdicts: Sequence[Verdict]) -> Tuple[int, Dict[str, int]]:
    """Return how many classes ran, and how many did not for each kind of reason."""
    reasons: Dict[str, List[str]] = {}
    for verdict in verdicts:
        reasons.setdefault(verdict.model, []).append(
            verdict.detail if verdict.finding == Finding.CANNOT_BUILD.value else ""
        )
    unbuilt = Counter(kind_of(said[0]) for said in reasons.values() if all(said))
    return len(reasons) - sum(unbuilt.values()), dict(unbuilt)


def _coverage(verdicts: Sequence[Verdict]) -> List[str]:
    ran, unbuilt = coverage(verdicts)
    able = ran + unbuilt.get(OURS, 0)
    share = 100 * ran / max(able, 1)
    lines = [f"{ran} of the {able} classes that can run here were built, fed and run ({share:.1f} %)."]
    return lines + [f"Not so {count} more: each {kind}." for kind, count in unbuilt.items() if kind != OURS]


def _exceptions(verdicts: Sequence[Verdict]) -> List[str]:
    """Return a list for each finding that needs a word; one reason is said once, for all that it holds of."""
    lines: List[str] = []
    for finding in Finding:
        if finding in _UNREMARKABLE:
            continue
        stages: Dict[Tuple[str, str], List[str]] = {}
        for verdict in verdicts:
            if verdict.finding == finding.value:
                stages.setdefault((verdict.model, shortened(verdict.detail, _LONGEST)), []).append(verdict.check)
        models: Dict[Tuple[str, Tuple[str, ...]], List[str]] = {}
        for (model, reason), where in stages.items():
            models.setdefault((reason, tuple(where)), []).append(model)
        if models:
            lines += ["", f"### {finding.value}", ""]
        for (reason, stages_of), names in models.items():
            only = "" if len(stages_of) == len(STAGES) else f" ({escaped(', '.join(stages_of))})"
            lines.append(f"- {', '.join(map(_name, names))}{only}: {escaped(reason)}")
    return lines + _remarks(verdicts)


def _remarks(verdicts: Sequence[Verdict]) -> List[str]:
    """Return what is to be said of classes that are exact: what was left out, or compared otherwise."""
    remarks: Dict[str, List[str]] = {}
    for verdict in verdicts:
        if verdict.finding in (Finding.ONE_PASS, Finding.SPLIT, Finding.EXACT) and verdict.detail:
            for remark in verdict.detail.split("; "):
                remarks.setdefault(remark, [])
                if verdict.model not in remarks[remark]:
                    remarks[remark].append(verdict.model)
    if not remarks:
        return []
    lines = ["", "### exact, but", ""]
    for remark, models in sorted(remarks.items(), key=lambda item: -len(item[1])):
        lines.append(f"- {escaped(shortened(remark, _LONGEST))}: {', '.join(map(_name, models))}")
    return lines


def _rows(verdicts: Sequence[Verdict], models: Sequence[str]) -> List[str]:
    found = {(verdict.model, verdict.check): Finding(verdict.finding) for verdict in verdicts}
    return [
        row([_name(model), *(SYMBOLS[found[model, stage]] if (model, stage) in found else "" for stage in STAGES)])
        for model in models
    ]


def _name(model: str) -> str:
    return escaped(model.split(":", 1)[-1])
