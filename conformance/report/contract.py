"""The contract as a page: each clause, and the checks that prove it, from the registry."""

from __future__ import annotations

from conformance.checks import CHECKS
from conformance.contract import CONTRACT, Chapter, Clause
from conformance.report.markdown import row

_HEAD = """\
# The contract

Made by `python -m conformance list --contract-markdown docs/contract.md`, from the checks as they are registered.

What `model(**inputs, adapter_names=names)` must mean. A check proves clauses and carries their ids; reports group by
them. "Alone" means: the same row, same padding, run under `set_adapter(name)`, or with adapters disabled for
`__base__`. Two references, row by row and group by group, must agree before they are believed.

A clause with "no check" is a promise that no registered check holds the shim to; what shows a part of it elsewhere is
said. A clause with checks may promise more than they ask: read their questions.
"""

_TAIL = """\
## Exactness

- Exact tier: integer-valued weights and inputs, so that every order of summation gives the same float: bitwise
  equality.
- float64 tier, the gate for real architectures: relative error ≤ 1e-9, on rows where the adapters differ by at least
  1000 times that.
- Low-precision tier: the error against a float64 reference is at most a small constant times that of the sequential run
  in the same precision.
- A comparison without power (adapters too alike on a row) is *vacuous*, which is a verdict of its own and never a pass.
"""


def render() -> str:
    """Return the page `docs/contract.md`: each clause with its checks, what they ask, and what else shows it."""
    return "\n".join([_HEAD, _summary(), *map(_chapter, CONTRACT), _TAIL])


def _summary() -> str:
    lines = [row(["chapter", "clauses", "checks"]), row(["---", "---", "--:"])]
    for chapter in CONTRACT:
        clauses = ", ".join(f"[{clause.id}](#{clause.id.lower()})" for clause in chapter.clauses)
        ids = {clause.id for clause in chapter.clauses}
        count = sum(1 for check in CHECKS.values() if ids.intersection(check.clauses))
        lines.append(row([chapter.title, clauses, str(count)]))
    return "\n".join(lines) + "\n"


def _chapter(chapter: Chapter) -> str:
    return "\n".join([f"## {chapter.title}\n", *map(_clause, chapter.clauses)])


def _clause(clause: Clause) -> str:
    """Return a heading that can be linked to, the promise, and a line for each check that proves it."""
    lines = [f"### {clause.id}", "", clause.text, ""]
    proving = sorted(name for name, check in CHECKS.items() if clause.id in check.clauses)
    lines += [f"- `{name}`: {CHECKS[name].question}{_slow(name)}" for name in proving] or ["- No check."]
    lines += [f"- {clause.also}"] * bool(clause.also)
    return "\n".join(lines) + "\n"


def _slow(name: str) -> str:
    return "" if CHECKS[name].quick else " (left out by `--quick`)"
