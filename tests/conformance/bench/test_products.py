"""`bench products` on layers too small to say anything: that it measures what it says, not how much."""

from conformance.bench import products
from conformance.bench.products import Case, cases


def test_the_terms_are_apart_and_beside_their_floor():
    case = Case(16, 2, 3)
    rows = {row.name[len(case.name) + 2 :]: row for row in products.measure(quick=True, seconds=0, of=[case])}
    assert set(rows) == {"adapter", "unmerged", "merged", "base again"}
    assert all(row.value > 0 and row.unit == "x base" and row.spread for row in rows.values())
    assert rows["adapter"].floor == 2 * (16 * 2) / 16**2
    assert rows["unmerged"].floor == 1 + rows["adapter"].floor
    assert rows["merged"].floor == 1


def test_every_width_is_measured_against_several_ranks():
    for quick in (True, False):
        for case in cases(quick):
            assert len({other.rank for other in cases(quick) if other.width == case.width}) > 1
