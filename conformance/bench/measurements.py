"""What a bench found, as rows: printed as a table, written as JSON."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Dict, Iterator, Sequence

from conformance.bench.timing import Timing
from conformance.report.environment import command, versions


@dataclass(frozen=True)
class Row:
    """One measurement.

    value: in `unit`. target: the most that the project allows itself, 0 for none. floor: what arithmetic alone costs,
    in `unit`, 0 where nothing is predicted.
    """

    name: str
    value: float
    unit: str
    target: float = 0.0
    spread: str = ""
    floor: float = 0.0

    @property
    def bounds(self) -> str:
        """What the value may be held against, in words; empty where there is nothing."""
        said = [f"at most {self.target:g}"] * bool(self.target) + [f"floor {self.floor:.3g}"] * bool(self.floor)
        return f"({', '.join(said)})" if said else ""


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread inside the block: what is measured is work, not how busy the machine is."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def measuring(what: str) -> None:
    """Say on stderr what is being measured: some cases take a minute."""
    print(f"measuring {what}", file=sys.stderr, flush=True)


def spread(found: Dict[str, Timing]) -> str:
    """Return the median and the middle half of each timing, in milliseconds."""
    return ", ".join(
        f"{name} {1e3 * t.median:.4g} ({1e3 * t.low:.4g}-{1e3 * t.high:.4g}) ms" for name, t in found.items()
    )


def report(rows: Sequence[Row]) -> None:
    """Print the rows as a table."""
    width = max(len(row.name) for row in rows)
    for row in rows:
        print("  ".join(filter(None, [f"{row.name:<{width}}", f"{row.value:8.2f} {row.unit}", row.bounds, row.spread])))


def write(rows: Sequence[Row], path: str) -> None:
    """Write the rows, and what they were measured with, to `path` as JSON."""
    with open(path, "w", encoding="utf-8") as file:
        about = {"command": command(), "packages": versions()}
        json.dump({**about, "rows": [asdict(row) for row in rows]}, file, indent=1)
