"""What a bench found, as rows: printed as a table, written as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Dict, Optional, Sequence

from conformance.bench.timing import Timing
from conformance.report.environment import command, versions


@dataclass(frozen=True)
class Row:
    """One measurement. value: in `unit`; target: the most that the project allows itself, 0 for none."""

    name: str
    value: float
    unit: str
    target: float = 0.0
    spread: str = ""


def spread(found: Dict[str, Timing]) -> str:
    """Return the median and the middle half of each timing, in milliseconds."""
    return ", ".join(
        f"{name} {1e3 * t.median:.1f} ({1e3 * t.low:.1f}-{1e3 * t.high:.1f}) ms" for name, t in found.items()
    )


def report(rows: Sequence[Row], path: Optional[str]) -> None:
    """Print the rows as a table, and write them to `path` as JSON where there is one."""
    width = max(len(row.name) for row in rows)
    for row in rows:
        target = f"  (at most {row.target:g})" if row.target else ""
        print(f"{row.name:<{width}}  {row.value:8.2f} {row.unit}{target}{'  ' + row.spread if row.spread else ''}")
    if path:
        with open(path, "w", encoding="utf-8") as file:
            about = {"command": command(), "packages": versions()}
            json.dump({**about, "rows": [asdict(row) for row in rows]}, file, indent=1)
