"""What bench --json wrote comes to tables and charts, and what it did not write is refused by name."""

import json
import math
from dataclasses import asdict

import pytest

from conformance.bench.measurements import Row
from conformance.report.benches import HEIGHT, WIDTH, chart, read
from conformance.report.jsonl import ReportError

ROWS = [
    Row(f"width 8, {number} adapters: {way}", number * cost, "x single", target=1.1)
    for number in (2, 4, 8)
    for way, cost in (("shim", 1.0), ("PEFT", 3.0))
]


def written(tmp_path, rows):
    path = tmp_path / "bench.json"
    path.write_text(json.dumps({"command": "bench", "packages": {"peft": "0.21.2"}, "rows": list(map(asdict, rows))}))
    return path


def test_rows_are_told_by_case_and_drawn_as_curves(tmp_path):
    found = read(written(tmp_path, [*ROWS, Row("a row of its own", 1.0, "ms")]))
    assert (found.command, found.packages) == ("bench", {"peft": "0.21.2"})
    assert [case for case, _ in found.cases] == [
        "width 8, 2 adapters",
        "width 8, 4 adapters",
        "width 8, 8 adapters",
        "",
    ]
    assert [way for way, _ in found.cases[0][1]] == ["shim", "PEFT"]
    assert found.cases[3][1][0][0] == "a row of its own"
    (drawn,) = found.charts
    assert (drawn.title, drawn.what, drawn.unit) == ("width 8, N adapters", "adapters", "x single")
    assert [curve.bold for curve in drawn.curves] == [True, False]


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_what_logarithmic_axes_cannot_show_is_in_the_table_alone(tmp_path, value):
    rows = [Row(f"{number} adapters: shim", value if number == 4 else 1.0, "s") for number in (2, 4, 8)]
    found = read(written(tmp_path, rows))
    assert not found.charts
    assert len(found.cases) == 3


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"rows": [3]}', '{"rows": [{"name": "a"}]}', '{"rows": [{"name": "a", "value": "x"}]}']
)
def test_what_bench_did_not_write_is_refused_by_name(tmp_path, content):
    path = tmp_path / "bench.json"
    path.write_text(content)
    with pytest.raises(ReportError, match=r"bench\.json: nothing that bench --json wrote"):
        read(path)


@pytest.mark.parametrize("values", [(1, 1, 1), (0.9, 1.0, 1.1), (1e-3, 1, 1e6), (3, 5, 7)])
def test_a_chart_stays_in_its_picture_and_its_labels_apart(values):
    series = {way: list(zip((1.0, 8.0, 64.0), values)) for way in ("shim", "PEFT", "merged", "base")}
    drawn = chart("t", "w", "u", series)
    points = [point for curve in drawn.curves for point in curve.points]
    assert all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in points)
    assert drawn.upwards[-1][0] <= min(y for _, y in points) <= max(y for _, y in points) <= drawn.upwards[0][0]
    labels = sorted(curve.label for curve in drawn.curves)
    assert all(below - above >= 14 for above, below in zip(labels, labels[1:]))
    assert 2 <= len(drawn.upwards) <= 12


def test_axes_are_logarithmic():
    (curve,) = chart("t", "w", "u", {"shim": [(1.0, 1.0), (10.0, 10.0), (100.0, 100.0)]}).curves
    (x0, y0), (x1, y1), (x2, y2) = curve.points
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2)
    assert y0 > y1
