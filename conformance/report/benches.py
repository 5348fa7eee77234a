"""What `bench --json` wrote, as tables and as the geometry of charts, which the HTML page draws."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from conformance.bench.measurements import Row
from conformance.bench.plot import Series, curves
from conformance.report.jsonl import ReportError

WIDTH, HEIGHT = 460, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 112, 12, 34
_LABEL = 14
"""The least distance of labels, downwards."""
_MOST_TICKS = 7


@dataclass(frozen=True)
class Curve:
    """One way of doing it: its points in the picture, and where its label stands."""

    way: str
    points: Tuple[Tuple[float, float], ...]
    label: float
    bold: bool


@dataclass(frozen=True)
class Chart:
    """One picture, on logarithmic axes; ticks are (position, words)."""

    title: str
    what: str
    unit: str
    across: Tuple[Tuple[float, str], ...]
    upwards: Tuple[Tuple[float, str], ...]
    curves: Tuple[Curve, ...]


@dataclass(frozen=True)
class Bench:
    """One file: how it was made, its rows by case, its charts."""

    command: str
    packages: Mapping[str, str]
    cases: Tuple[Tuple[str, Tuple[Tuple[str, Row], ...]], ...]
    charts: Tuple[Chart, ...]


def read(path: Path) -> Bench:
    """Return the measurements in `path`.

    Raises:
        ReportError: it holds none that this version can read; the message names the file and the reason.
        OSError: it cannot be read.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        rows = [_row(record) for record in found["rows"]]
        packages = {str(name): str(version) for name, version in dict(found.get("packages", {})).items()}
    except (KeyError, TypeError, ValueError) as error:
        raise ReportError(f"{path}: nothing that bench --json wrote: {error!r}") from None
    cases: Dict[str, List[Tuple[str, Row]]] = {}
    for row in rows:
        case, _, way = row.name.rpartition(": ")
        cases.setdefault(case, []).append((way, row))
    charts = [chart(*about, series) for about, series in curves(rows).items() if _positive(series)]
    return Bench(
        str(found.get("command", "")),
        packages,
        tuple((case, tuple(members)) for case, members in cases.items()),
        tuple(charts),
    )


def chart(title: str, what: str, unit: str, series: Series) -> Chart:
    """Return the geometry of curves whose numbers are all positive, in a picture of `WIDTH` x `HEIGHT`."""
    numbers = sorted({x for points in series.values() for x, _ in points})
    marks = _ticks([y for points in series.values() for _, y in points])

    def x(value: float) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * _share(value, numbers[0], numbers[-1])

    def y(value: float) -> float:
        return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * _share(value, marks[0], marks[-1])

    ends = {way: y(points[-1][1]) for way, points in series.items()}
    labels = _apart(ends)
    return Chart(
        title,
        what,
        unit,
        tuple((round(x(value), 1), f"{value:g}") for value in numbers),
        tuple((round(y(value), 1), f"{value:g}") for value in marks),
        tuple(
            Curve(way, tuple((round(x(a), 1), round(y(b), 1)) for a, b in points), labels[way], way == "shim")
            for way, points in series.items()
        ),
    )


def _row(record: Mapping[str, Any]) -> Row:
    known = {field.name: record[field.name] for field in fields(Row) if field.name in record}
    numbers = {name: float(known[name]) for name in ("value", "target", "floor") if name in known}
    words = {name: str(known[name]) for name in ("name", "unit", "spread") if name in known}
    return Row(**numbers, **words)  # type: ignore[arg-type]


def _positive(series: Series) -> bool:
    """Whether logarithmic axes can show all of it."""
    return all(0 < number < math.inf for points in series.values() for point in points for number in point)


def _ticks(values: Sequence[float]) -> List[float]:
    """Return 1, 2 or 5 times powers of ten around all `values`; only the powers where those are many already."""
    powers = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 2)
    ticks: List[float] = []
    for factors in ((1, 2, 5), (1,)):
        steps = [factor * 10.0**power for power in powers for factor in factors]
        first = max(step for step in steps if step <= min(values) * (1 + 1e-9))
        last = min(step for step in steps if step >= max(values) * (1 - 1e-9) and step > first)
        ticks = [step for step in steps if first <= step <= last]
        if len(ticks) <= _MOST_TICKS:
            break
    return ticks


def _share(value: float, low: float, high: float) -> float:
    """Return how far `value` lies between two numbers, logarithmically."""
    return math.log(value / low) / math.log(high / low) if high > low else 0.5


def _apart(ends: Mapping[str, float]) -> Dict[str, float]:
    """Return heights for the labels: beside the ends of their curves, but never over one another."""
    labels: Dict[str, float] = {}
    lowest = -math.inf
    for way, end in sorted(ends.items(), key=lambda item: item[1]):
        lowest = max(end, lowest + _LABEL)
        labels[way] = round(lowest, 1)
    return labels
