"""Bench rows as pictures: one PNG for each group of rows that differ in one number."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

from conformance.bench.measurements import Row

_NUMBER = re.compile(r"\b\d+\b")

Series = Dict[str, List[Tuple[float, float]]]
"""For each way its points: (the number that varies, the value)."""


def curves(rows: Sequence[Row]) -> Dict[Tuple[str, str, str], Series]:
    """Return the curves among the rows, by (title, what varies, unit).

    A row is called `case: way`. Cases are one curve where they are the same but for one number, of three values or
    more; that number stands as `N` in the title.
    """
    groups: Dict[Tuple[str, int, str], Dict[str, Dict[float, float]]] = {}
    for row in rows:
        case, _, way = row.name.partition(": ")
        for found in _NUMBER.finditer(case):
            title = f"{case[: found.start()]}N{case[found.end() :]}"
            line = groups.setdefault((title, found.start(), row.unit), {}).setdefault(way, {})
            line[float(found.group())] = row.value
    charts: Dict[Tuple[str, str, str], Series] = {}
    for (title, start, unit), lines in groups.items():
        if max(map(len, lines.values())) > 2:
            what = title[start + 1 :].split(",")[0].strip() or title[:start].split(",")[-1].strip()
            charts[title, what, unit] = {way: sorted(points.items()) for way, points in lines.items()}
    return charts


def draw(rows: Sequence[Row], folder: Path) -> List[Path]:
    """Write a PNG for each chart of `rows` into `folder`, which is made, and return their paths.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for (title, what, unit), series in curves(rows).items():
        figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
        for way, points in series.items():
            axes.plot(*zip(*points), marker="o", markersize=3, label=way, linewidth=2.5 if way == "shim" else 1.2)
        axes.set(title=title, xlabel=f"N {what}", ylabel=unit, xscale="log", yscale="log")
        axes.set_xticks(sorted({x for points in series.values() for x, _ in points}), minor=False)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.legend()
        paths.append(folder / f"{re.sub(r'[^a-z0-9]+', '-', f'{title} {unit}'.lower()).strip('-')}.png")
        figure.savefig(paths[-1], dpi=120)
        pyplot.close(figure)
    return paths
