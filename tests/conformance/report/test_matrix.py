"""Every verdict has its cell and its words; what is said twice is written once."""

from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.report.jsonl import Report
from conformance.report.matrix import LONGEST, SHORT, defects, matrix, runs
from conformance.verdict import Outcome, Verdict

LONG = "output 'logits' differs " + "by much, " * 40
R1 = "each_row_equals_its_own_run"
KWARGS = "raised TypeError: unexpected keyword argument 'with_kwargs'"
OLD = {"torch": "1.13.1", "peft": "0.10.0", "transformers": "4.36.2"}


def of(*reports):
    return matrix(runs(reports))


def test_runs_stand_with_the_shim_first_and_each_has_a_name_of_its_own(report):
    other = {"torch": "2.13.0", "peft": "0.21.2", "transformers": "4.57"}
    found = runs([report(name="c05", with_shim=False), report(name="c05"), report(name="c01"), report(packages=other)])
    assert [(run.name, run.with_shim) for run in found] == [
        ("c01", True),
        ("c05", True),
        ("c17", True),
        ("c05", False),
    ]
    twice = runs([report(), report(packages=other), report(packages=other, with_shim=False)])
    assert [run.name for run in twice] == ["c17", "c17 (2)", "c17 (2)"]


def test_cells_stand_under_their_runs(report, verdict):
    found = of(report(verdict(), name="c01"), report(verdict("fail"), verdict(model="vit"), name="c05"))
    bert, vit = found.groups
    assert [cell.outcome for cell in bert.lines[0].cells] == [Outcome.PASS, Outcome.FAIL]
    assert vit.lines[0].cells[0] is None
    assert vit.lines[0].cells[1].outcome is Outcome.PASS


def test_lines_stand_in_the_order_of_the_contract(report, verdict):
    verdicts = [
        verdict(check=check, clauses=clauses) for check, clauses in (("a", ("F1",)), ("b", ("R10",)), ("c", ("R2",)))
    ]
    (group,) = of(report(*verdicts)).groups
    assert [line.check for line in group.lines] == ["c", "b", "a"]


def test_the_worst_is_shown_of_a_model_and_of_a_clause(report, verdict):
    found = of(report(verdict(), verdict("vacuous", check="other"), verdict("refused", model="vit")))
    assert [group.cells[0].outcome for group in found.groups] == [Outcome.VACUOUS, Outcome.REFUSED]
    ((clause, (worst,)),) = found.clauses
    assert (clause, worst.outcome) == ("R1", Outcome.VACUOUS)


def test_a_verdict_without_clauses_is_not_lost(report, verdict):
    assert [clause for clause, _ in of(report(verdict("error", clauses=()))).clauses] == ["?"]


def test_runs_that_say_the_same_share_an_entry_and_keep_their_measures(report, verdict):
    errors = {"c01": 1.23e-16, "c05": 1.24e-16, "c10": 0.0}
    found = of(*(report(verdict(error=error, separation=0.5, examples=3), name=name) for name, error in errors.items()))
    (entry,) = found.groups[0].lines[0].blocks[0].entries
    assert entry.runs == (0, 1, 2)
    assert [(one.error, one.separation, one.examples, one.runs) for one in entry.measured] == [
        ("1.2e-16", "0.5", 3, (0, 1)),
        ("0", "0.5", 3, (2,)),
    ]


def test_a_long_text_and_a_reproduction_are_written_once(report, verdict):
    failing = [
        verdict("fail", check=check, detail=LONG, reproduction="reproduce()", model=model)
        for model in ("bert", "vit")
        for check in ("a", "b")
    ]
    found = of(report(*failing), report(*failing, with_shim=False))
    entries = [entry for g in found.groups for line in g.lines for block in line.blocks for entry in block.entries]
    blocks = [block for g in found.groups for line in g.lines for block in line.blocks]
    assert len(LONG) > SHORT
    assert [entry.detail_at for entry in entries] == [None, *[entries[0].anchor] * 3]
    assert [block.reproduction_at for block in blocks] == [None, *[entries[0].anchor] * 3]


def test_a_text_that_is_too_long_is_cut_and_says_so(report, verdict):
    (group,) = of(report(verdict("fail", detail="x" * (LONGEST + 7)))).groups
    assert group.lines[0].cells[0].detail.endswith("… (7 more characters are in the JSON lines)")


def test_what_a_defect_on_record_explains_is_told_apart_and_hides_nothing_worse(report, verdict):
    known = verdict("fail", check=R1, clauses=("R1", "R7"), detail=KWARGS)
    surprise = verdict("fail", check="other", detail="another thing")
    found = of(report(known, surprise, with_shim=False, packages=OLD))
    by = {line.check: [defect.name for defect in line.cells[0].by] for line in found.groups[0].lines}
    assert by == {R1: ["hooks_without_kwargs"], "other": []}
    assert found.groups[0].cells[0].detail == "another thing"
    assert [(bool(entry.by), count) for entry, count in found.groups[0].counts] == [(False, 1), (True, 1)]
    ((defect, clauses, where, count),) = defects(found)
    assert (defect.name, clauses, where, count) == ("hooks_without_kwargs", ("R1", "R7"), (0,), 1)


def test_with_the_shim_no_defect_upstream_is_an_excuse(report, verdict):
    wrong = verdict("fail", check=R1, detail=KWARGS)
    found = of(*(report(wrong, packages=OLD, with_shim=with_shim) for with_shim in (True, False)))
    assert [bool(cell.by) for cell in found.groups[0].cells] == [False, True]


VERDICTS = st.builds(
    Verdict,
    st.sampled_from(["bert", "vit"]),
    st.sampled_from(["a", "b"]),
    st.just(("R1",)),
    st.sampled_from(Outcome),
    st.sampled_from(["", "said", LONG]),
    st.sampled_from([None, "reproduce()"]),
    st.sampled_from([None, 0.0, 1e-9, float("inf"), float("nan")]),
)


@settings(derandomize=True, database=None, deadline=None, max_examples=50)
@given(st.lists(st.lists(VERDICTS, max_size=4, unique_by=lambda one: (one.model, one.check)), min_size=1, max_size=4))
def test_no_verdict_is_lost_and_none_is_made_up(several):
    reports = [
        Report({"environment": {"name": f"c{at}"}, "settings": {"with_shim": True}}, tuple(verdicts), {})
        for at, verdicts in enumerate(several)
    ]
    found = of(*reports)
    shown = {
        (at, line.model, line.check, cell.outcome, cell.detail)
        for group in found.groups
        for line in group.lines
        for at, cell in enumerate(line.cells)
        if cell
    }
    assert shown == {(at, v.model, v.check, v.outcome, v.detail) for at, vs in enumerate(several) for v in vs}
    anchors = [e.anchor for g in found.groups for line in g.lines for block in line.blocks for e in block.entries]
    assert len(anchors) == len(set(anchors))
