"""A user's expected failures: read with the line of what is wrong, matched by name, and strict."""

import pytest

from conformance.checks import CHECKS
from conformance.expected import ExpectedFileError, as_expected, read_expected, to_records, unmet
from conformance.report.jsonl import Report, footer, merge
from conformance.verdict import Outcome, Verdict
from tests.conformance import own_models

ROWS, ORDER = "each_row_equals_its_own_run", "a_row_is_right_after_calls_of_other_sizes"
ALL_OF_R1 = [name for name, check in CHECKS.items() if "R1" in check.clauses]


def expected(tmp_path, text, models="bert"):
    path = tmp_path / "expected.toml"
    path.write_text(text, encoding="utf-8")
    return read_expected(path, models)


def verdict(check=ROWS, outcome=Outcome.FAIL, model="bert"):
    return Verdict(model, check, ("R1", "R7"), outcome, "row 1 is row 2's")


@pytest.mark.parametrize(
    ("key", "checks"),
    [
        (f"bert/{ROWS}", {ROWS}),
        ("bert/R1", set(ALL_OF_R1)),
        ("bert/R2", {"reordering_rows_reorders_outputs"}),
    ],
)
def test_a_key_names_checks_or_a_clause(tmp_path, key, checks):
    (entry,) = expected(tmp_path, f'"{key}" = "known, https://bugs/1"')
    assert set(entry.seen[0].checks) == checks


def test_what_is_not_in_the_run_covers_nothing(tmp_path):
    text = '"vit/R1" = "known"\n"my.models:build/R1" = "known"\n"every:bert/linear_layers" = "known"'
    assert [entry.seen[0].checks for entry in expected(tmp_path, text)] == [(), (), ()]


def test_stages_of_the_sweep_are_checks(tmp_path):
    pytest.importorskip("transformers")
    text = '"every:bert/linear_layers" = "known"\n"every:bert+head/R7" = "known"'
    stage, clause = expected(tmp_path, text, "every:bert")
    assert stage.seen[0].checks == ("linear_layers",)
    assert clause.seen[0].checks == ("linear_layers", "embeddings_and_convolutions", "fused_experts", "generate")


def test_a_users_own_model_is_named_as_it_is_loaded(tmp_path):
    own = "tests.conformance.own_models:module"
    for name in (own, f"own:{own}"):
        (entry,) = expected(tmp_path, f'"{name}/R2" = "known"', f"own:{own}")
        assert entry.seen[0].checks == ("reordering_rows_reorders_outputs",)


def test_a_folder_is_named_as_it_is_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own_models.causal()[0].save_pretrained("ckpt")
    for run, names in (("own:ckpt", ("ckpt", "ckpt/", "./ckpt", "own:ckpt")), ("own:ckpt/", ("ckpt", "own:ckpt/"))):
        for name in names:
            (entry,) = expected(tmp_path, f'"{name}/R3" = "known"', run)
            assert entry.seen[0].model == run, name
            assert "base_rows_equal_the_base_model" in entry.seen[0].checks
    (entry,) = expected(tmp_path, '"ckpt/R3" = "known"')
    assert (entry.seen[0].model, entry.seen[0].checks) == ("own:ckpt", ())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('"bert/R1" = "known"\nbert/R2 = "known"\n', r"line 2.*both in quotes"),
        ('"bert/R1" = "known"\n"bert/R1" = "again"\n', r"line 2"),
        ('\n"bert/R1" = ""\n', r"line 2: 'bert/R1' has no reason"),
        ('"bert/R1" = "  "\n', r"line 1: 'bert/R1' has no reason"),
        ('\n\n"bert/R1" = true\n', r"line 3: 'bert/R1' is bool"),
        ('[bert]\nR1 = "known"\n', r"line 1: 'bert' is dict, but should be"),
        ('"bert" = "known"\n', r"line 1: 'bert' should be a model, a slash"),
        ('"bert/" = "known"\n', r"line 1: 'bert/' should be a model, a slash"),
        ('# all\n"bert/Z9" = "known"\n', r"line 2: no check or clause of bert is called Z9; there are A1, .*R1"),
        ('"bert/G1" = "known"\n', r"line 1: no check or clause of bert is called G1"),
        ('"brt/R1" = "known"\n', r"line 1: no model is called brt; near it: bert.*; there are .*vit"),
        ('"vit/Z9" = "known"\n', r"line 1: no check or clause is called Z9"),
    ],
)
def test_what_says_nothing_is_refused_by_line(tmp_path, text, said):
    with pytest.raises(ExpectedFileError, match=rf"(?s)expected\.toml.*{said}"):
        expected(tmp_path, text)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ExpectedFileError, match=r"none\.toml: No such file"):
        read_expected(tmp_path / "none.toml", "bert")


@pytest.mark.parametrize("outcome", [Outcome.FAIL, Outcome.VACUOUS, Outcome.ERROR])
def test_what_fails_is_expected_with_the_reason_and_what_it_was(tmp_path, outcome):
    defects = expected(tmp_path, f'"bert/R1" = "known, https://bugs/1"\n"bert/{ROWS}" = "and again"')
    found = as_expected(verdict(outcome=outcome), defects)
    assert found.outcome is Outcome.EXPECTED
    assert found.expected == "known, https://bugs/1; and again"
    assert found.detail == f"{outcome.value}: row 1 is row 2's"


@pytest.mark.parametrize("outcome", [Outcome.PASS, Outcome.REFUSED, Outcome.SKIPPED])
def test_what_does_not_fail_stays_as_it_is(tmp_path, outcome):
    found = verdict(outcome=outcome)
    assert as_expected(found, expected(tmp_path, '"bert/R1" = "known"')) is found


def test_another_check_or_model_is_not_excused(tmp_path):
    defects = expected(tmp_path, f'"bert/{ROWS}" = "known"')
    for other in (verdict(ORDER), verdict(model="vit")):
        assert as_expected(other, defects) is other


def report(defects, *verdicts, **choice):
    header = {"choice": choice, "expected": to_records(defects)}
    return Report(header, verdicts, footer(verdicts, seconds=0.0, complete=True, header=header))


def test_an_entry_is_unmet_once_all_its_checks_were_judged_and_none_failed(tmp_path):
    defects = expected(tmp_path, '"bert/R1" = "known"')
    passed = [verdict(check, Outcome.PASS) for check in ALL_OF_R1]
    failed = as_expected(verdict(ORDER), defects)
    assert not report(defects, passed[0]).unmet
    assert not report(defects, passed[0], failed).unmet
    assert [entry["name"] for entry in report(defects, *passed).unmet] == ["bert/R1"]
    assert not report(defects, *passed).passed
    assert not report(defects, *passed, left_out=[]).unmet


def test_merged_parts_are_held_against_it_together(tmp_path):
    defects = expected(tmp_path, '"bert/R1" = "known"')
    parts = ALL_OF_R1[:1], ALL_OF_R1[1:]
    one, two = (report(defects, *(verdict(check, Outcome.PASS) for check in part)) for part in parts)
    assert one.passed
    assert two.passed
    (merged,) = merge([one, two])
    assert [entry["name"] for entry in merged.unmet] == ["bert/R1"]
    assert not merged.passed


def test_no_merging_loses_what_did_not_come(tmp_path):
    defects = expected(tmp_path, '"bert/R2" = "known"')
    strict = report(defects, verdict("reordering_rows_reorders_outputs", Outcome.PASS))
    others = [report((), verdict(outcome=Outcome.PASS, model="vit")), report((), verdict(outcome=Outcome.PASS))]
    for order in ([strict, *others], [*others, strict], [others[0], strict, others[1]]):
        (merged,) = merge(order)
        assert [entry["name"] for entry in merged.unmet] == ["bert/R2"]
        assert [entry["name"] for entry in merged.header["expected"]] == ["bert/R2"]
        assert not merged.passed


def test_what_did_not_come_in_one_of_two_runs_did_not_come(tmp_path):
    defects = expected(tmp_path, f'"bert/{ROWS}" = "known"')
    came, did_not = report(defects, as_expected(verdict(), defects)), report(defects, verdict(outcome=Outcome.PASS))
    for order in ([came, did_not], [did_not, came]):
        (merged,) = merge(order)
        assert [entry["name"] for entry in merged.unmet] == [f"bert/{ROWS}"]


def test_runs_of_different_choices_are_held_against_it_together(tmp_path):
    defects = expected(tmp_path, '"bert/R1" = "known"')
    parts = ALL_OF_R1[:1], ALL_OF_R1[1:]
    found = [report(defects, *(verdict(one, Outcome.PASS) for one in part), checks=",".join(part)) for part in parts]
    for order in (found, found[::-1]):
        (merged,) = merge(order)
        assert [entry["name"] for entry in merged.unmet] == ["bert/R1"]


def test_a_quick_run_among_others_leaves_only_its_own_entries_open(tmp_path):
    defects = expected(tmp_path, f'"bert/{ROWS}" = "known"')
    passed = verdict(outcome=Outcome.PASS)
    quick = report(defects, passed, checks="quick", left_out=[ROWS, ORDER])
    for order in ([quick, report((), passed)], [report((), passed), quick]):
        (merged,) = merge(order)
        assert not merged.unmet
        assert merged.header["choice"]["left_out"] == [ORDER]
    for order in ([quick, report(defects, passed)], [report(defects, passed), quick]):
        (merged,) = merge(order)
        assert [entry["name"] for entry in merged.unmet] == [f"bert/{ROWS}"]


def test_nothing_is_unmet_of_a_report_without_entries():
    assert unmet({}, [verdict()]) == []
