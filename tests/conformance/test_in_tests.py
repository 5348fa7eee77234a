"""The suite in a user's own tests: it passes what is right, and fails with a reproduction what is not."""

import os
import subprocess
import sys

import pytest

import conformance
from conformance.__main__ import FAILED, FINE, USAGE, main
from conformance.report.result import Result
from conformance.selection import UnknownChoiceError
from conformance.verdict import Outcome

HERE = "tests.conformance.own_models"
NOTHING_SHOWN = Result.NOTHING_SHOWN.code
ROWS = "each_row_equals_its_own_run,reordering_rows_reorders_outputs"


@conformance.parametrize(f"{HERE}:module", checks=ROWS, examples=2)
def test_one_test_for_each_check(check):
    assert check().outcome is Outcome.PASS


def test_all_verdicts_are_returned():
    verdicts = conformance.check_model(f"{HERE}:causal", checks="F1,R3", examples=1)
    assert {verdict.outcome for verdict in verdicts} == {Outcome.PASS}
    assert len(verdicts) > 2


def test_a_broken_check_fails_with_its_reproduction():
    with pytest.raises(AssertionError) as caught:
        conformance.check_model(f"{HERE}:module", checks=ROWS, examples=1, with_shim=False)
    assert "each_row_equals_its_own_run (R1, R7) is broken" in str(caught.value)
    assert f"reproduce('own:{HERE}:module', 'each_row_equals_its_own_run'" in str(caught.value)
    assert "with_shim=False" in str(caught.value)


def test_a_refusal_is_a_verdict_and_no_failure_beside_what_passes():
    verdicts = conformance.check_model(f"{HERE}:mixing", checks="R2,F2", examples=1)
    refused = [verdict for verdict in verdicts if verdict.outcome is Outcome.REFUSED]
    assert all("mixes samples" in verdict.detail for verdict in refused)
    assert 0 < len(refused) < len(verdicts)


def test_a_model_on_which_all_is_refused_was_not_shown_anything():
    with pytest.raises(
        AssertionError, match=f"^{HERE}:mixing: nothing was shown, but some check should pass\n"
    ) as caught:
        conformance.check_model(f"{HERE}:mixing", checks="R2", examples=1)
    assert "reordering_rows_reorders_outputs (R2) is refused on" in str(caught.value)
    assert "mixes samples" in str(caught.value)


def examinations(name, **options):
    return conformance.parametrize(f"{HERE}:{name}", examples=1, **options).args[1]


def test_a_test_of_what_is_refused_is_skipped_with_the_reason():
    (examination,) = examinations("mixing", checks="R2")
    with pytest.raises(pytest.skip.Exception, match=r"^refused: .*mixes samples"):
        examination()


def test_a_test_of_what_is_broken_fails():
    (examination,) = examinations("module", checks="each_row_equals_its_own_run", with_shim=False)
    with pytest.raises(AssertionError, match="is broken"):
        examination()


def test_a_test_of_what_does_not_apply_is_skipped_and_there_only_where_it_was_asked_for_by_name():
    asked = examinations("module", checks="R2,G1")
    assert "reordering_rows_reorders_outputs" in {one.check.name for one in asked}
    vain = [one for one in asked if "G1" in one.check.clauses]
    assert vain
    for examination in vain:
        with pytest.raises(pytest.skip.Exception, match=r"^skipped: does not apply to this model"):
            examination()
    assert not [one for one in examinations("module") if not one.check.applies_to(one.model)]


def test_what_does_not_apply_is_a_verdict_beside_what_passes():
    verdicts = conformance.check_model(f"{HERE}:module", checks="R2,G1", examples=1)
    assert {verdict.outcome for verdict in verdicts if "G1" in verdict.clauses} == {Outcome.SKIPPED}
    assert {verdict.outcome for verdict in verdicts if "R2" in verdict.clauses} == {Outcome.PASS}


@pytest.mark.parametrize("wanted", [conformance.check_model, conformance.parametrize])
def test_checks_none_of_which_applies_are_wrong_usage(wanted):
    with pytest.raises(UnknownChoiceError, match=f"checks='G1': none of them applies to {HERE}:module"):
        wanted(f"{HERE}:module", checks="G1")
    with pytest.raises(ValueError, match="examples is 0, but should be at least 1"):
        wanted(f"{HERE}:module", checks="R2", examples=0)


def test_the_command_shows_routes_and_the_table(capsys):
    assert main(["check", f"{HERE}:module", "--checks", "R1", "--examples", "1"]) == FINE
    shown = capsys.readouterr().out
    assert "route: one pass" in shown
    assert "tail.1: input (3, 8): dim 0, one entry per sample" in shown
    assert "PASSED: 4 pass, 1 skipped on 1 model" in shown  # it tells no states of its layers


def test_the_command_fails_where_upstream_does(capsys):
    assert main(["check", f"{HERE}:module", "--checks", "R1", "--examples", "1", "--without-shim"]) == FAILED
    shown = capsys.readouterr().out
    assert "route:" not in shown
    assert "FAILED" in shown


def test_wrong_usage_is_said(capsys):
    assert main(["check", "no.such.package:build"]) == USAGE
    assert "no.such.package:build" in capsys.readouterr().err


@pytest.mark.parametrize("function", ["nothing", "raising", "without_layers"])
def test_a_model_that_cannot_be_loaded_is_wrong_usage(capsys, function):
    assert main(["check", f"{HERE}:{function}"]) == USAGE
    assert f"{HERE}:{function}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--quick", "--checks", "R1"], "--quick chooses the checks"),
        (["--expect", "missing.toml"], "missing.toml"),
        (["--resume"], "--resume needs --report"),
        (["--resume", "--report", __file__], "not JSON"),
        (["--report", "tests"], "tests is a directory, but should be a file"),
        (["--checks", "G1"], "none of these checks applies"),
        (["--checks", "Z9"], "no check or clause is called Z9"),
    ],
)
def test_what_is_wrong_is_said_before_a_route_is_shown(capsys, wrong, said):
    assert main(["check", f"{HERE}:module", *wrong]) == USAGE
    shown = capsys.readouterr()
    assert shown.out == ""
    assert said in shown.err


MINE = """
import torch
from torch import nn


class Mine(nn.Linear):
    def forward(self, input):
        return super().forward(input){}


def build():
    return nn.Sequential(nn.Linear(4, 4), Mine(4, 2)), {{"input": torch.randn(3, 4)}}
"""


def test_verdicts_on_a_model_whose_code_has_changed_are_not_taken_over(tmp_path):
    def check():
        command = ("check", "mine:build", "--checks=R2", "--examples=1", "--report=run.jsonl", "--resume")
        paths = os.pathsep.join([str(tmp_path), os.getcwd()])
        environment = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(
            [sys.executable, "-m", "conformance", *command],
            cwd=tmp_path,
            env=environment,
            encoding="utf-8",
            stdout=subprocess.PIPE,
        )

    (tmp_path / "mine.py").write_text(MINE.format(""))
    assert "1 checks to run" in check().stdout
    again = check()
    assert again.returncode == FINE
    assert "checks to run" not in again.stdout
    (tmp_path / "mine.py").write_text(MINE.format(" - input.mean(0)[:2]"))
    changed = check()
    assert "own:mine:build is not known to be what it was in run.jsonl" in changed.stdout
    assert "1 checks to run" in changed.stdout
    assert changed.returncode == NOTHING_SHOWN


def test_quick_runs_on_a_users_own_model(capsys):
    assert main(["check", f"{HERE}:module", "--quick", "--annotate", "none"]) == FINE
    shown = capsys.readouterr().out
    assert "Quick: 2 scenarios for each check; not run: bfloat16_rows_are_as_exact_as_alone." in shown
