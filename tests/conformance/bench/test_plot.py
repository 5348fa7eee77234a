"""Which rows are a curve, and that they are drawn."""

import pytest

from conformance.bench.measurements import Row
from conformance.bench.plot import curves, draw

COSTS = {"shim": 1.0, "PEFT": 3.0}
ROWS = [
    Row(f"width 8, {number} adapters: {way}", number * cost, "x single")
    for number in (2, 4, 8)
    for way, cost in COSTS.items()
]


def test_rows_that_differ_in_one_number_are_a_curve():
    (about, series), *others = curves([*ROWS, Row("a row of its own: shim", 1.0, "ms")]).items()
    assert about == ("width 8, N adapters", "adapters", "x single")
    assert series == {"shim": [(2, 2.0), (4, 4.0), (8, 8.0)], "PEFT": [(2, 6.0), (4, 12.0), (8, 24.0)]}
    assert not others


def test_two_points_are_no_curve():
    assert not curves([row for row in ROWS if "8 adapters" not in row.name])


def test_a_chart_is_a_png_with_a_name_that_says_what_it_shows(tmp_path):
    pytest.importorskip("matplotlib")
    (path,) = draw(ROWS, tmp_path / "plots")
    assert path.name == "width-8-n-adapters-x-single.png"
    assert path.read_bytes().startswith(b"\x89PNG")
