"""`bench adapters` on models too small to say anything: that it measures what it says, not how much."""

from conformance.bench import adapters
from conformance.bench.adapters import Case, cases


def test_every_case_is_beside_peft_and_what_bounds_it():
    small = [Case(16, 2, 3, 2, 2, 2, target=1.1), Case(16, 2, 2, 1, 2, 2, generates=True)]
    rows = adapters.measure(quick=True, seconds=0, layers=1, of=small)
    for case in small:
        ways = {row.name[len(case.name) + 2 :]: row for row in rows if row.name.startswith(case.name)}
        assert set(ways) == {"shim", "shim, packed", "PEFT", "merged", "base", "single again"}
        assert all(row.value > 0 and row.unit == "x single" and row.spread for row in ways.values())
        assert ways["shim"].target == case.target
        assert not ways["PEFT"].target


def test_cases_have_no_more_adapters_than_are_loaded_or_there_is_room_for():
    for case in [*cases(True), *cases(False)]:
        assert case.distinct <= min(case.loaded, case.samples)
    assert len({case.name for case in cases(False)}) == len(cases(False))
