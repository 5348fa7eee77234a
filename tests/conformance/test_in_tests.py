"""The suite in a user's own tests: it passes what is right, and fails with a reproduction what is not."""

import pytest

import conformance
from conformance.__main__ import FAILED, FINE, USAGE, main
from conformance.verdict import Outcome

HERE = "tests.conformance.own_models"
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


def test_a_refusal_is_a_verdict_and_no_failure():
    (verdict, *_) = conformance.check_model(f"{HERE}:mixing", checks="R1", examples=1)
    assert verdict.outcome is Outcome.REFUSED
    assert "mixes samples" in verdict.detail


def test_the_command_shows_routes_and_the_table(capsys):
    assert main(["check", f"{HERE}:module", "--checks", "R1", "--examples", "1"]) == FINE
    shown = capsys.readouterr().out
    assert "route: one pass" in shown
    assert "tail.1: input (3, 8): dim 0, one entry per sample" in shown
    assert "PASSED: 4 pass on 1 model" in shown


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


def test_quick_runs_on_a_users_own_model(capsys):
    assert main(["check", f"{HERE}:module", "--quick", "--annotate", "none"]) == FINE
    shown = capsys.readouterr().out
    assert "Quick: 2 scenarios for each check; not run: bfloat16_rows_are_as_exact_as_alone." in shown
