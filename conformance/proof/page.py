"""The page `docs/proof.md`: every planted fault with how often it was caught, false alarms, old versions, mutants."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence

from conformance.proof.tally import Proof, Tally
from conformance.report.jsonl import read
from conformance.report.markdown import escaped, row
from conformance.report.versions import Environment, environments
from conformance.selection import clause_order

_LONGEST = 110


def line(tally: Tally) -> str:
    """Return one tally as a line on a terminal."""
    owner = f"{tally.check} on {tally.model}" if tally.model else tally.check
    found = f"caught {tally.right} of {tally.runs}" if tally.fault else f"{tally.runs - tally.right} alarms"
    wrong = f"; seed {tally.wrong[0][0]}: {tally.wrong[0][1][:100]}" if tally.wrong else ""
    return f"{tally.fault or 'no fault'}: {owner}: {found} ({tally.seconds:.0f} s){wrong}"


def summary(proof: Proof, share: float) -> str:
    """Return what it comes to in a few lines: the counts, the faults caught too seldom, the alarms."""
    faults, clean = proof.faults, proof.clean
    runs = sum(one.runs for one in faults)
    lines = [line(one) for one in [*proof.uncaught(share), *proof.alarms]]
    lines.append(
        f"{len(faults)} faults, caught in {sum(one.right for one in faults)} of {runs} runs; "
        f"{sum(len(one.wrong) for one in clean)} false alarms in {sum(one.scenarios for one in clean)} scenarios"
    )
    return "\n".join(lines)


def render(proof: Proof, results: Path) -> str:
    """Return the page of `proof`, and of what `results` holds beside it: runs of old versions, mutants."""
    lines = [
        "# The proof of the suite",
        "",
        "Made by `python -m conformance prove --report results/proof/faults.jsonl --markdown docs/proof.md`.",
        "",
        *_planted(proof),
        *_alarms(proof),
        *_versions(results / "matrix"),
        *_mutants(results / "proof" / "mutants.json"),
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


def _planted(proof: Proof) -> List[str]:
    faults = proof.faults
    if not faults:
        return []
    settings: Mapping[str, Any] = proof.header.get("settings", {})
    packages: Mapping[str, str] = proof.header.get("environment", {}).get("packages", {})
    versions = ", ".join(f"{name} {packages.get(name, '?')}" for name in ("torch", "transformers", "peft"))
    some = "every fault" if all(one.right == one.runs for one in faults) else "the faults"
    lines = [
        "## Planted faults",
        "",
        f"{len(faults)} faults, {_seeds(faults)} seeds each, {settings.get('examples')} scenarios a run, as in a cell "
        f"of the gate: {some} caught in {sum(one.right for one in faults)} of {sum(one.runs for one in faults)} runs. "
        f"{versions}. Each run is a process of its own, and ends as its owner says: with the fault the check fails "
        "(or finds itself vacuous), without it it passes.",
        "",
        row(["planted", "caught by", "clauses", "on", "route", "caught"]),
        row(["---", "---", "---", "---", "---", "--:"]),
    ]
    lines += map(_fault, faults)
    missing = sorted(set(proof.header.get("planted", ())) - {one.fault for one in faults})
    if missing:
        lines += ["", f"Not run yet, {len(missing)}: {'; '.join(name.replace('_', ' ') for name in missing)}."]
    return [*lines, ""]


def _seeds(tallies: Sequence[Tally]) -> str:
    runs = sorted({one.runs for one in tallies})
    return str(runs[0]) if len(runs) == 1 else f"{runs[0]} to {runs[-1]}"


def _fault(one: Tally) -> str:
    caught = f"{one.right} of {one.runs}"
    if one.raised:
        caught += f" ({one.raised} by an error raised)"
    return row([one.fault.replace("_", " "), f"`{one.check}`", ", ".join(one.clauses), one.model, one.route, caught])


def _alarms(proof: Proof) -> List[str]:
    clean = proof.clean
    if not clean:
        return []
    checks, models = {one.check for one in clean if one.model}, {one.model for one in clean if one.model}
    alarms = [(one, seed, why) for one in clean for seed, why in one.wrong]
    lines = [
        "## False alarms",
        "",
        f"The same checks on the same models, {len(checks)} on {len(models)}, without a fault: {len(alarms)} false "
        f"alarms in {sum(one.scenarios for one in clean)} scenarios.",
        "",
    ]
    return lines + [f"- `{one.check}` on {one.model}, seed {seed}: {escaped(why)}" for one, seed, why in alarms]


def _versions(folder: Path) -> List[str]:
    """Return the table of upstream's own faults: what is red without the shim, version by version."""
    found = environments([read(path) for path in sorted(folder.glob("*-without-shim.jsonl"))])
    if not found:
        return []
    lines = [
        "## Old versions as natural mutants",
        "",
        "The same checks without the shim: upstream's own faults, each red explained by a defect on record "
        "([every version](versions.md)).",
        "",
        row(["peft", "torch", "transformers", "red checks", "of", "red clauses", "defects seen"]),
        row(["---", "---", "---", "--:", "--:", "---", "--:"]),
    ]
    by_peft = sorted(found, key=lambda one: [int(part) for part in one.packages["peft"].split(".") if part.isdigit()])
    return [*lines, *map(_environment, by_peft), ""]


def _environment(one: Environment) -> str:
    verdicts = one.without_shim.verdicts if one.without_shim else ()
    red = [verdict for verdict in verdicts if verdict.outcome.fails_the_run]
    clauses = sorted({clause for verdict in red for clause in verdict.clauses}, key=clause_order)
    held = one.expectation
    defects = {defect.name for _, by in held.known for defect in by} if held else set()
    versions = [one.packages[name] for name in ("peft", "torch", "transformers")]
    shown = sum(verdict.outcome.value != "skipped" for verdict in verdicts)
    return row([*versions, str(len(red)), str(shown), ", ".join(clauses), str(len(defects))])


def _mutants(path: Path) -> List[str]:
    """Return the list of mutants that no test killed, each with the reason that it may live."""
    if not path.exists():
        return []
    found: Dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    lines = [
        "## Mutants",
        "",
        f"By {found['tool']}: each mutant under the tests named, and no others. {found['left_out']}",
        "",
        row(["file", "tests", "mutants", "killed", "survived"]),
        row(["---", "---", "--:", "--:", "--:"]),
    ]
    for file in found["files"]:
        tests = ", ".join(f"`{test}`" for test in file["tests"])
        lines.append(
            row([f"`{file['file']}`", tests, str(file["mutants"]), str(file["killed"]), str(file["survived"])])
        )
    lines += ["", "Those that survived:", "", row(["where", "mutant", "why it may live"]), row(["---"] * 3)]
    for one in found["survivors"]:
        where = f"`{one['file']}`, `{one['function']}`"
        lines.append(row([where, f"`{one['mutant']}`".replace("|", "\\|"), escaped(one["reason"])]))
    return [*lines, ""]
