"""The sweep of methods as a page: each method of the installed PEFT, how it goes in a mixed batch, and why."""

from __future__ import annotations

from collections import Counter
from typing import Dict, List, Optional

from conformance.report.jsonl import Report
from conformance.report.markdown import escaped, row, shortened
from conformance.report.summary import facts
from conformance.sweep.finding import Finding
from conformance.sweep.stages import METHOD_STAGE
from conformance.verdict import Verdict

_LONGEST = 300


def swept(report: Report) -> List[Verdict]:
    """Return the verdicts on methods, by name."""
    found = [verdict for verdict in report.verdicts if verdict.finding and verdict.check == METHOD_STAGE]
    return sorted(found, key=lambda verdict: verdict.model)


def render(report: Report, upstream: Optional[Report] = None) -> str:
    """Return the page `docs/methods.md`: versions, counts, and a row for each method.

    upstream: the same without the shim, whose findings stand beside.
    """
    verdicts = swept(report)
    alone = {verdict.model: verdict.finding for verdict in swept(upstream)} if upstream else {}
    lines = [
        "# Every method",
        "",
        f"Made by `python -m conformance report … --methods-markdown docs/methods.md` from a run of "
        f"`{escaped(str(report.header.get('command')))}`, {report.header.get('started', '?')}:",
        f"{escaped(facts(report))}.",
        "",
        "Every method that PEFT registers, variants of LoRA, and LoRA on quantised bases, two adapters of each on a "
        f"Llama of width 128 with two layers: {_counts(verdicts)}. Each row of a mixed batch is held against that row "
        "alone under its adapter; the error is the largest, the separation how far the adapters are apart at least, "
        "both relative.",
        "",
        *([f"Without the shim: {_counts(swept(upstream))}.", ""] if upstream else []),
        row(["method", "in a mixed batch", *["without the shim"] * bool(upstream), "error", "separation", "because"]),
        row(["---", "---", *["---"] * bool(upstream), "--:", "--:", "---"]),
        *(_row(verdict, alone) for verdict in verdicts),
    ]
    return "\n".join(lines) + "\n"


def _counts(verdicts: List[Verdict]) -> str:
    counted = Counter(verdict.finding for verdict in verdicts)
    return ", ".join(f"{counted[finding.value]} {finding.value}" for finding in Finding if counted[finding.value])


def _row(verdict: Verdict, alone: Dict[str, str]) -> str:
    reason = shortened(verdict.detail, _LONGEST)
    error = "" if verdict.error is None else f"{verdict.error:.0e}"
    separation = "" if verdict.separation is None else f"{verdict.separation:.2g}"
    beside = [alone.get(verdict.model, "")] if alone else []
    name = escaped(verdict.model.split(":", 1)[-1])
    return row([name, verdict.finding, *beside, error, separation, escaped(reason)])
