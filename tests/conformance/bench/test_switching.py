"""`bench switching` on models too small to say anything: that it measures what it says, not how much."""

from conformance.bench import switching
from conformance.bench.switching import Case, cases


def test_every_way_is_beside_the_mixed_call_and_merging_has_its_price():
    case = Case(16, 2, 4, 3, 2)
    rows = switching.measure(quick=True, seconds=0, layers=1, of=[case])
    ways = {row.name[len(case.name) + 2 :]: row for row in rows if row.name.startswith(case.name)}
    assert set(ways) == {"switch", "merge", "mixed again"}
    assert all(row.value > 0 and row.unit == "x mixed" for row in ways.values())
    fixed = {row.name.split(": ")[1]: row for row in rows if "a combination" in row.name}
    assert set(fixed) == {"unmerged", "merging", "combining", "merging and unmerging has paid after"}
    assert fixed["merging and unmerging has paid after"].unit == "calls"
    assert len(rows) == len(ways) + len(fixed)


def test_a_combination_is_measured_once_for_each_batch():
    case = Case(16, 2, 2, 2, 2)
    rows = switching.measure(quick=True, seconds=0, layers=1, of=[case, Case(16, 2, 2, 2, 1)])
    assert sum("has paid after" in row.name for row in rows) == 1
    assert len({case.name for case in cases(False)}) == len(cases(False))
