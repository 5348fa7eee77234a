"""What changed since a baseline is found, named, and never made out of nothing."""

import pytest

from conformance.report.changes import ABSENT, BROKEN, MENDED, OTHERWISE, changes
from conformance.report.matrix import runs


def compared(now, before):
    return changes(runs(now), runs(before))


@pytest.mark.parametrize(
    ("was", "now", "kind"),
    [
        ("pass", "fail", BROKEN),
        ("refused", "vacuous", BROKEN),
        ("skipped", "error", BROKEN),
        ("fail", "pass", MENDED),
        ("error", "refused", MENDED),
        ("pass", "refused", OTHERWISE),
        ("fail", "error", OTHERWISE),
    ],
)
def test_each_change_has_its_kind(report, verdict, was, now, kind):
    (change,) = compared([report(verdict(now))], [report(verdict(was))]).changes
    assert (change.kind, change.was, change.now, change.runs) == (kind, was, now, (0,))


def test_nothing_changes_between_a_run_and_itself(report, verdict):
    there = [report(verdict("fail", detail="at 0x7f"), verdict("pass", model="vit", finding="exact by split"))]
    found = compared(there, there)
    assert not found.changes
    assert not found.not_run


def test_a_route_that_changes_is_told(report, verdict):
    now, before = verdict(finding="exact by split"), verdict(finding="exact in one pass")
    (change,) = compared([report(now)], [report(before)]).changes
    assert (change.kind, change.was, change.now) == (OTHERWISE, "exact in one pass", "exact by split")


def test_what_is_new_and_wrong_is_broken_and_what_is_new_and_fine_is_counted(report, verdict):
    now = report(verdict(), verdict("fail", model="vit"), verdict("pass", model="vit", check="order_is_kept"))
    found = compared([now], [report(verdict())])
    (change,) = found.changes
    assert (change.kind, change.model, change.was) == (BROKEN, "vit", ABSENT)
    assert found.compared[0].new == {"vit": 2}


def test_what_is_gone_is_counted(report, verdict):
    found = compared([report(verdict())], [report(verdict(), verdict("pass", model="vit"))])
    assert found.compared[0].gone == {"vit": 1}


def test_one_change_of_several_runs_is_told_once(report, verdict):
    now = [report(verdict("fail"), name=name) for name in ("c01", "c05")]
    before = [report(verdict("pass"), name=name) for name in ("c01", "c05")]
    (change,) = compared(now, before).changes
    assert change.runs == (0, 1)


def test_a_run_is_held_against_the_one_of_its_name_and_side(report, verdict):
    now = [report(verdict("pass"), name="c01"), report(verdict("fail"), name="c01", with_shim=False)]
    before = [
        report(verdict("fail"), name="c05"),
        report(verdict("pass"), name="c01"),
        report(verdict("fail"), name="c01", with_shim=False),
    ]
    found = compared(now, before)
    assert not found.changes
    assert [run.name for run in found.not_run] == ["c05"]


def test_a_new_release_is_held_against_the_only_run_there_and_the_versions_are_told(report, verdict):
    then = {"torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.1"}
    found = compared([report(verdict("fail"), name=None)], [report(verdict(), name=None, packages=then)])
    assert [change.kind for change in found.changes] == [BROKEN]
    assert found.compared[0].versions == "peft 0.21.1 → 0.21.2"


def test_a_run_without_a_counterpart_is_said_to_have_none(report, verdict):
    found = compared([report(verdict("fail"), name="c18")], [report(verdict(), name="c01"), report(name="c05")])
    assert found.compared[0].before is None
    assert not found.changes
    assert len(found.not_run) == 2


def test_several_runs_are_not_all_held_against_the_only_one_there(report, verdict):
    now = [report(verdict("fail"), name=name) for name in ("c05", "c10")]
    found = compared(now, [report(verdict(), name="c01")])
    assert [one.before for one in found.compared] == [None, None]
    assert not found.changes
