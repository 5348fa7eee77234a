"""Runs of many environments as one page: versions across, clauses down, with the shim and without it.

Every red cell leads to a page of its environment, which holds what was seen there and how to see it again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from conformance.report.expected import headline as as_on_record
from conformance.report.jsonl import Report, worst
from conformance.report.markdown import escaped, row
from conformance.report.summary import MARKS, headline
from conformance.selection import clause_order
from conformance.upstream.defect import Defect
from conformance.upstream.expectation import Expectation, expectation
from conformance.verdict import Outcome, Verdict


@dataclass(frozen=True)
class Environment:
    """One environment's runs: with the shim, without it, or both."""

    name: str
    python: str
    packages: Mapping[str, str]
    device: str
    with_shim: Optional[Report]
    without_shim: Optional[Report]

    @property
    def expectation(self) -> Optional[Expectation]:
        """How the run without the shim compares with the defects on record."""
        return expectation(self.without_shim) if self.without_shim else None


def environments(reports: Iterable[Report]) -> List[Environment]:
    """Return the environments of merged reports, each once, by name, then by version."""
    found: Dict[str, Dict[bool, Report]] = {}
    for report in reports:
        key = json.dumps(report.header.get("environment", {}), sort_keys=True)
        found.setdefault(key, {})[report.with_shim] = report
    return sorted((_environment(json.loads(key), runs) for key, runs in found.items()), key=lambda one: one.name)


def pages(reports: Iterable[Report], path: Path) -> Dict[Path, str]:
    """Return the text of the page at `path`, and of a page for each environment in the folder beside it."""
    found = environments(reports)
    folder = path.with_suffix("")
    texts = {path: render(found, folder.name)}
    for one in found:
        texts[folder / f"{one.name}.md"] = render_environment(one)
    return texts


def render(found: Sequence[Environment], folder: str = "") -> str:
    """Return the page of all environments; with a `folder`, red cells lead to the environment's page in it."""
    lines = [
        "# Every version",
        "",
        "Made by `python -m conformance report … --versions-markdown PATH`. A cell: with the shim, then without it.",
        "A run is told by its day and a digest of the sources of `shim` and `conformance`: one digest, one code.",
        "",
        *_environments(found),
        "",
        *_clauses(found, folder),
        "",
        "  ".join(f"{mark.symbol} {mark.meaning}" for mark in MARKS.values()),
        "",
        *_defects(found),
    ]
    return "\n".join(lines) + "\n"


def render_environment(one: Environment) -> str:
    """Return the page of one environment: what was red in it, clause by clause, with a reproduction of each check."""
    lines = [f"# {one.name}: {_versions(one)}", ""]
    if one.with_shim:
        lines += [f"With the shim: {escaped(headline(one.with_shim))}", ""]
        lines += _reds(one.with_shim.verdicts, {}, "with the shim")
    held = one.expectation
    if one.without_shim and held:
        lines += [f"Without it: {escaped(headline(one.without_shim))}. {escaped(as_on_record(held))}.", ""]
        defects = {(verdict.model, verdict.check): by for verdict, by in held.known}
        lines += _reds(one.without_shim.verdicts, defects, "")
        lines += [f"- not red: {v.model}, {v.check}: should be by {d.name}" for v, d in held.missing]
    return "\n".join(lines).rstrip("\n") + "\n"


def _environment(facts: Mapping[str, object], runs: Mapping[bool, Report]) -> Environment:
    packages: Mapping[str, str] = dict(facts.get("packages") or {})  # type: ignore[call-overload]
    python, device = str(facts.get("python", "?")), str(facts.get("device", "?"))
    name = str(facts.get("name") or f"torch{packages.get('torch', '?')}-peft{packages.get('peft', '?')}")
    if device.startswith("cuda"):
        name += "-cuda"
    return Environment(name, python, packages, device, runs.get(True), runs.get(False))


def _versions(one: Environment) -> str:
    packages = ", ".join(f"{name} {one.packages.get(name, '?')}" for name in ("torch", "transformers", "peft"))
    return f"python {one.python}, {packages}, {one.device}"


def _environments(found: Sequence[Environment]) -> List[str]:
    heads = ["", "python", "torch", "transformers", "peft", "device", "run", "with the shim", "without it"]
    lines = [row(heads), row(["---"] * len(heads))]
    for one in found:
        versions = [one.packages.get(name, "?") for name in ("torch", "transformers", "peft")]
        held = one.expectation
        results = [
            escaped(headline(one.with_shim)) if one.with_shim else "not run",
            escaped(as_on_record(held)) if held else "not run",
        ]
        lines.append(row([one.name, one.python, *versions, one.device, _runs(one), *results]))
    return lines


def _runs(one: Environment) -> str:
    """Return when, and of which code, an environment's runs were made: once where both are of one day and code."""
    headers = [report.header for report in (one.with_shim, one.without_shim) if report]
    said = {f"{str(header.get('started', '?'))[:10]}, `{header.get('code', '?')}`" for header in headers}
    return "<br>".join(sorted(said))


def _clauses(found: Sequence[Environment], folder: str) -> List[str]:
    cells: Dict[Tuple[str, str], str] = {}
    clauses: List[str] = []
    for one in found:
        by_run = [_by_clause(report) for report in (one.with_shim, one.without_shim)]
        for clause in {*by_run[0], *by_run[1]}:
            clauses.append(clause)
            anchors = [f"{clause} with the shim", clause]
            marks = [
                _mark(run.get(clause, Outcome.SKIPPED), f"{folder}/{one.name}.md", anchor if folder else "")
                for run, anchor in zip(by_run, anchors)
            ]
            cells[one.name, clause] = " ".join(marks)
    lines = [row(["clause", *(one.name for one in found)]), row(["---", *(":-:" for _ in found)])]
    for clause in sorted(set(clauses), key=clause_order):
        lines.append(row([clause, *(cells.get((one.name, clause), "· ·") for one in found)]))
    return lines


def _by_clause(report: Optional[Report]) -> Dict[str, Outcome]:
    outcomes: Dict[str, List[Outcome]] = {}
    for verdict in report.verdicts if report else ():
        for clause in verdict.clauses:
            outcomes.setdefault(clause, []).append(verdict.outcome)
    return {clause: worst(several) for clause, several in outcomes.items()}


def _mark(outcome: Outcome, page: str, heading: str) -> str:
    symbol = MARKS[outcome].symbol
    anchor = heading.lower().replace(" ", "-")  # as GitHub makes one
    return f"[{symbol}]({page}#{anchor})" if anchor and outcome.fails_the_run else symbol


def _defects(found: Sequence[Environment]) -> List[str]:
    seen: Dict[Defect, List[str]] = {}
    clauses: Dict[Defect, List[str]] = {}
    for one in found:
        held = one.expectation
        for verdict, by in held.known if held else ():
            for defect in by:
                if one.name not in seen.setdefault(defect, []):
                    seen[defect].append(one.name)
                clauses.setdefault(defect, []).extend(verdict.clauses)
    lines = ["## Defects upstream", "", row(["defect", "what is wrong", "upstream", "clauses", "seen in"])]
    lines.append(row(["---"] * 5))
    for defect, names in seen.items():
        proven = ", ".join(sorted(set(clauses[defect]), key=clause_order))
        lines.append(row([f"`{defect.name}`", escaped(defect.said), defect.upstream, proven, ", ".join(names)]))
    return lines


def _reds(verdicts: Sequence[Verdict], known: Mapping[Tuple[str, str], Sequence[Defect]], where: str) -> List[str]:
    """Return one section for each clause that is red, its checks in it; a check of several is told at the first."""
    checks: Dict[str, List[Verdict]] = {}
    for verdict in verdicts:
        if verdict.outcome.fails_the_run:
            checks.setdefault(verdict.check, []).append(verdict)
    lines: List[str] = []
    told: Dict[str, str] = {}
    for clause in sorted({c for red in checks.values() for c in red[0].clauses}, key=clause_order):
        lines += [f"## {clause}{' ' + where if where else ''}", ""]
        for check, red in sorted(checks.items()):
            if clause not in red[0].clauses:
                continue
            if check in told:
                lines += [f"`{check}`: see {told[check]}", ""]
                continue
            told[check] = clause
            lines += _red_check(check, red, known)
    return lines


def _red_check(check: str, red: Sequence[Verdict], known: Mapping[Tuple[str, str], Sequence[Defect]]) -> List[str]:
    names = sorted({defect.name for verdict in red for defect in known.get((verdict.model, check), ())})
    by = f" by {', '.join(f'`{name}`' for name in names)}" if names else ""
    first = min(red, key=lambda verdict: verdict.model)
    lines = [
        f"`{check}` fails{by} on {', '.join(sorted(verdict.model for verdict in red))}.",
        f"{first.model}: {escaped(first.detail[:400])}",
        "",
    ]
    if first.reproduction:
        lines += ["```python", first.reproduction.rstrip("\n"), "```", ""]
    return lines
