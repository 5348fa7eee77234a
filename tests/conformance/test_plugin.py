"""The plugin: nothing to a session without the suite, and every verdict into the report with it."""

import json

import pytest

from conformance.report.jsonl import read

PLUGIN = ("-p", "conformance.plugin")
SUITE = (*PLUGIN, "--pyargs", "conformance")
HEAVY = ["torch", "peft", "transformers", "hypothesis", "rich"]


def outcomes(path):
    return {(verdict.model, verdict.check): (verdict.outcome.value, verdict.detail) for verdict in read(path).verdicts}


@pytest.fixture
def plain_session(sandbox):
    """A user's own tests, the plugin beside them."""
    (sandbox.folder / "test_own.py").write_text(
        "import sys, warnings\n"
        "def test_own():\n"
        f"    heavy = {HEAVY} + ['conformance.models', 'conformance.checks', 'conformance.examination']\n"
        "    stand_ins = [name for name in sys.modules if name.startswith('conformance.')]\n"
        "    assert not [name for name in heavy if name in sys.modules and name not in stand_ins]\n"
        "    print('FILTERS', warnings.filters)\n"
    )
    (sandbox.folder / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers -p no:hypothesispytest\n")
    return sandbox


def without_times(text):
    return [line for line in text.splitlines() if " passed" not in line]


def test_plain_session_is_left_alone(plain_session):
    with_plugin = plain_session.pytest("-rA", *PLUGIN)
    without = plain_session.pytest("-rA")
    assert with_plugin.returncode == 0, with_plugin.stdout
    assert without_times(with_plugin.stdout) == without_times(without.stdout)
    assert with_plugin.stderr == without.stderr == ""
    assert not plain_session.shim_log.exists()


def test_no_marker_is_added(sandbox):
    assert sandbox.pytest("--markers", *PLUGIN).stdout == sandbox.pytest("--markers").stdout


def test_collects_one_test_for_each_pair_that_applies(sandbox):
    listed = sandbox.pytest(*SUITE, "--collect-only", "-q", "--conformance-checks", "R1,heads_are_right")
    ids = [line.split("[")[1].rstrip("]") for line in listed.stdout.splitlines() if "[" in line]
    assert ids == ["alpha-base-rows_are_right", "beta-heads_are_right", "beta-rows_are_right"]
    assert "shown" not in listed.stdout  # no table of nothing


def test_pass_is_a_pass_and_shown_in_the_table(sandbox):
    ran = sandbox.pytest(*SUITE, "--conformance-checks=R1,H1")
    assert ran.returncode == 0
    assert "PASSED: 3 pass on 2 models" in ran.stdout
    assert "beta        ✓   ✓   ✓" in ran.stdout
    assert "alpha-base  ✓   ✓   ·" in ran.stdout


def test_failure_fails_the_run_and_prints_the_reproduction_once(sandbox):
    ran = sandbox.pytest(*SUITE, "--conformance-checks=R1,R2", "--conformance-models=beta")
    assert ran.returncode == 1
    assert "\nfrom conformance import reproduce\nreproduce('it')\n" in ran.stdout
    assert ran.stdout.count("reproduce('it')") == 1
    assert "row 1: observed 3, expected 4" in ran.stdout
    assert "FAILED: 1 pass, 1 fail on 1 model" in ran.stdout
    assert "PASSED" not in ran.stdout
    assert "Traceback" not in ran.stdout
    assert "test_contract.py:" not in ran.stdout.replace("test_contract.py::", "")


def test_vacuous_fails_the_run(sandbox):
    ran = sandbox.pytest(*SUITE, "--conformance-checks=R5")
    assert ran.returncode == 1
    assert "vacuous: beta, adapters_are_alike (R5): no power" in ran.stdout


def test_refused_is_skipped_with_its_reason(sandbox):
    ran = sandbox.pytest(*SUITE, "-rs", "--conformance-checks=R1,R8", "--conformance-models=beta")
    assert ran.returncode == 0
    assert "1 passed, 1 skipped" in ran.stdout
    assert "refused: layer mixer mixes samples" in ran.stdout
    assert "beta (R8): layer mixer mixes samples" in ran.stdout


def test_broken_suite_is_an_error_in_the_report(sandbox):
    report = sandbox.folder / "new" / "report.jsonl"
    ran = sandbox.pytest(*SUITE, "--conformance-checks=S2", f"--conformance-report={report}")
    assert ran.returncode == 1
    outcome, detail = outcomes(report)["alpha-base", "the_suite_breaks"]
    assert outcome == "error"
    assert "the call of the test failed" in detail
    assert "a bug of the suite" in detail


def test_options_reach_the_checks(sandbox):
    ran = sandbox.pytest(
        *SUITE,
        "--conformance-checks=R2",
        "--conformance-device=cuda:1",
        "--conformance-examples=7",
        "--conformance-shim=off",
        "--conformance-shrink",
        "--conformance-seed=3",
    )
    assert "Settings(device='cuda:1', with_shim=False, examples=7, shrink=True, seed=3)" in ran.stdout
    assert sandbox.shim_log.read_text().split("\n")[:-1] == ["left out", "over"]
    assert "without the shim" in ran.stdout


def test_shim_is_taken_away_before_a_users_next_test(sandbox):
    (sandbox.folder / "test_own.py").write_text(
        f"def test_own():\n    assert open({str(sandbox.shim_log)!r}).read() == 'installed\\nover\\n'\n"
    )
    ran = sandbox.pytest(*SUITE, "test_own.py", "--conformance-checks=R1")
    assert ran.returncode == 0, ran.stdout
    assert "3 passed" in ran.stdout


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--conformance-models=gamma", "no model is called gamma; there are alpha-base, beta"),
        ("--conformance-checks=R1,Z9", "no check or clause is called Z9"),
        ("--conformance-device=abacus", "device 'abacus' cannot be used here"),
        ("--conformance-examples=0", "at least 1"),
        ("--conformance-report=.", "--conformance-report"),
    ],
)
def test_wrong_option_is_a_usage_error(sandbox, option, said):
    ran = sandbox.pytest(*SUITE, option)
    assert ran.returncode == 4
    assert said in ran.stderr


def test_report_has_header_verdicts_and_footer(sandbox):
    report = sandbox.folder / "report.jsonl"
    sandbox.pytest(*SUITE, "--conformance-checks=R1,R8", f"--conformance-report={report}")
    first, *verdicts, last = map(json.loads, report.read_text("utf-8").splitlines())
    assert first["kind"] == "header"
    assert first["settings"]["with_shim"] is True
    assert first["environment"]["packages"]["pytest"] == pytest.__version__
    assert first["command"].startswith("python -m pytest -p no:cacheprovider")
    assert [verdict["kind"] for verdict in verdicts] == ["verdict"] * 4
    assert last["complete"] is True
    assert (last["counts"]["pass"], last["counts"]["refused"]) == (2, 2)


def test_run_that_stops_early_is_not_complete(sandbox):
    report = sandbox.folder / "report.jsonl"
    ran = sandbox.pytest(*SUITE, "-x", "--conformance-checks=R1,R2", f"--conformance-report={report}")
    assert ran.returncode == 1
    assert not read(report).complete
    assert len(read(report).verdicts) == 1


def test_older_report_is_not_taken_for_a_run_of_nothing(sandbox):
    report = sandbox.folder / "report.jsonl"
    report.write_text("old")
    sandbox.pytest(*PLUGIN, f"--conformance-report={report}")
    assert read(report).verdicts == ()
    assert not read(report).complete


def test_xdist_gives_the_same_verdicts(sandbox):
    pytest.importorskip("xdist")
    checks = "--conformance-checks=R1,R2,R5,R8,H1,S2"
    alone, shared = sandbox.folder / "alone.jsonl", sandbox.folder / "shared.jsonl"
    one = sandbox.pytest(*SUITE, checks, f"--conformance-report={alone}")
    two = sandbox.pytest(*SUITE, checks, "-n", "2", f"--conformance-report={shared}")
    assert outcomes(alone) == outcomes(shared)
    assert len(outcomes(alone)) == 11
    assert read(shared).complete
    assert "✗" in two.stdout
    assert (one.returncode, two.returncode) == (1, 1)


def test_worker_that_dies_is_an_error_and_the_others_go_on(sandbox):
    pytest.importorskip("xdist")
    report = sandbox.folder / "report.jsonl"
    ran = sandbox.pytest(*SUITE, "-n", "2", "--conformance-checks=R1,S1", f"--conformance-report={report}")
    assert ran.returncode == 1
    found = outcomes(report)
    assert found["beta", "rows_are_right"] == ("pass", "")
    outcome, detail = found["beta", "the_process_dies"]
    assert outcome == "error"
    assert "process died" in detail
    assert read(report).complete


def test_installed_plugin_needs_no_argument(sandbox):
    sandbox.install()
    ran = sandbox.pytest("--pyargs", "conformance", "--conformance-checks=R1")
    assert ran.returncode == 0, ran.stderr
    assert "PASSED: 2 pass" in ran.stdout


def test_checkout_without_the_plugin_runs_with_defaults(sandbox):
    ran = sandbox.pytest("--pyargs", "conformance", "-k", "rows_are_right or heads_are_right")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "PASSED: 3 pass" in ran.stdout
