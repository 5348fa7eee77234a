"""What benches found as a page of Markdown: a table for each, cases down and ways across."""

from __future__ import annotations

from typing import Dict, Iterator, List, Sequence

from conformance.bench.measurements import Row
from conformance.report.benches import Bench

_HEAD = """# Cost

Made by `python -m conformance bench --from results/bench/*.json --markdown docs/cost.md`, from what `bench NAME --json`
wrote. What each bench asks is said in [kernels](kernels.md#the-benches). Ratios are of runs in turns in one process,
on one CPU thread; "again" is the control, the same thing measured twice. Medians and spreads are in the files.
"""


def render(benches: Sequence[Bench]) -> str:
    """Return the page of benches."""
    return "\n".join([_HEAD, *(part for bench in benches for part in _bench(bench))])


def rows_of(bench: Bench) -> List[Row]:
    """Return the measurements of a bench."""
    return [row for _, members in bench.cases for _, row in members]


def _bench(bench: Bench) -> Iterator[str]:
    packages = ", ".join(f"{name} {version}" for name, version in bench.packages.items())
    yield f"## {bench.command.partition('bench ')[2].split(' ')[0].capitalize() or 'Bench'}\n"
    yield f"`{bench.command}`: {packages}.\n"
    for unit, cases in _tables(bench).items():
        ways = list(dict.fromkeys(way for rows in cases.values() for way in rows))
        yield _line(["case", *ways, "at most", "floor"])
        yield _line(["---", *["--:"] * (len(ways) + 2)])
        for case, rows in cases.items():
            values = [f"{rows[way].value:.3g}" if way in rows else "" for way in ways]
            bounds = [max(row.target for row in rows.values()), max(row.floor for row in rows.values())]
            yield _line([case, *values, *(f"{bound:.3g}" if bound else "" for bound in bounds)])
        yield f"\nIn {unit}.\n"


def _tables(bench: Bench) -> Dict[str, Dict[str, Dict[str, Row]]]:
    """Return the rows by unit, case and way; one that names no way is a case of its own."""
    tables: Dict[str, Dict[str, Dict[str, Row]]] = {}
    for case, members in bench.cases:
        for way, row in members:
            tables.setdefault(row.unit, {}).setdefault(case or way, {})[way if case else "value"] = row
    return tables


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
