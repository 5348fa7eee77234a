"""The command line: exit codes, table, report and JUnit, whatever pytest is configured to do."""

import xml.etree.ElementTree as ElementTree

import pytest

from conformance.report.jsonl import read

FINE, FAILED, USAGE, NOTHING_SHOWN, CUT_SHORT = 0, 1, 2, 3, 4


INTERRUPTED = """
def interrupted(model, check, settings, passes=examine):
    if model.name == "beta":
        raise KeyboardInterrupt
    return passes(model, check, settings)


sys.modules["conformance.examination"].examine = interrupted
"""


def test_run_that_passes(sandbox):
    ran = sandbox.conformance("run", "--checks", "R1,R8")
    assert ran.returncode == FINE, ran.stdout + ran.stderr
    assert "4 checks to run" in ran.stdout
    assert "4/4: 2 pass, 2 refused" in ran.stdout
    assert "PASSED: 2 pass, 2 refused on 2 models" in ran.stdout
    assert "noise from a model" not in ran.stdout + ran.stderr
    assert "test session starts" not in ran.stdout


def test_run_that_fails_prints_a_reproduction_that_can_be_pasted(sandbox):
    ran = sandbox.conformance("run", "--models", "beta", "--checks", "R1,R2")
    assert ran.returncode == FAILED
    assert "\nfail: beta, answers_are_wrong\n" in ran.stdout
    assert "\nfrom conformance import reproduce\nreproduce('it')\n" in ran.stdout
    assert "FAILED: 1 pass, 1 fail on 1 model" in ran.stdout


@pytest.mark.parametrize("checks", ["R1,R5", "R1,S2", "S2"])
def test_an_error_fails_and_so_does_what_is_vacuous_beside_what_passes(sandbox, checks):
    assert sandbox.conformance("run", "--checks", checks).returncode == FAILED


@pytest.mark.parametrize(("clause", "said"), [("R8", "2 refused"), ("R5", "2 vacuous")])
def test_nothing_but_these_shows_nothing(sandbox, clause, said):
    ran = sandbox.conformance("run", "--checks", clause)
    assert ran.returncode == NOTHING_SHOWN
    assert f"NOTHING SHOWN: {said}" in ran.stdout


def test_a_run_that_is_interrupted_is_cut_short(sandbox):
    (sandbox.folder / "sitecustomize.py").write_text((sandbox.folder / "sitecustomize.py").read_text() + INTERRUPTED)
    ran = sandbox.conformance("run", "--checks", "R1")
    assert ran.returncode == CUT_SHORT, ran.stdout + ran.stderr
    assert "CUT SHORT: 1 pass on 1 model" in ran.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--models", "gamma"], "no model is called gamma"),
        (["--checks", "Z9"], "no check or clause is called Z9"),
        (["--models", "alpha-base", "--checks", "H1"], "none of these checks applies"),
        (["--examples", "0"], "argument --examples: '0' was given, but should be a whole number of at least 1"),
        (["--examples", "x"], "argument --examples: 'x' was given, but should be a whole number of at least 1"),
        (["--resume"], "--resume needs --report"),
        (["--report", "."], "--report . is a directory, but should be a file"),
        (["--colour"], "--colour"),
        (["--on-record"], "needs --without-shim"),
        (["--on-record", "--without-shim", "--expect", "expected.toml"], "leave out --expect"),
        (["--expect", "missing.toml"], "missing.toml: No such file or directory"),
    ],
)
def test_wrong_usage(sandbox, arguments, said):
    ran = sandbox.conformance("run", *arguments)
    assert ran.returncode == USAGE
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr


def test_no_command_is_wrong_usage(sandbox):
    assert sandbox.conformance().returncode == USAGE


def test_options_reach_the_checks(sandbox):
    ran = sandbox.conformance(
        "run", "--checks=R2", "--device=cuda:1", "--without-shim", "--examples=7", "--shrink", "--seed=3"
    )
    assert "Settings(device='cuda:1', with_shim=False, examples=7, shrink=True, seed=3)" in ran.stdout
    assert sandbox.shim_log.read_text().startswith("left out")


def test_a_run_without_the_shim_is_held_against_the_record(sandbox):
    ran = sandbox.conformance("run", "--models", "alpha-base", "--checks", "R1", "--without-shim", "--on-record")
    assert ran.returncode == FINE, ran.stdout + ran.stderr
    assert ran.stdout.endswith("AS ON RECORD: 0 red, each by a known defect, and nothing else\n")
    ran = sandbox.conformance("run", "--models", "beta", "--checks", "R2", "--without-shim", "--on-record")
    assert ran.returncode == FAILED
    assert "fail, but no defect on record explains it" in ran.stdout
    assert "NOT AS ON RECORD: 0 red by known defects, 1 by none, 0 that should be red" in ran.stdout


def test_report_and_junit_are_written(sandbox):
    ran = sandbox.conformance("run", "--checks=R1,R2", "--report=out/run.jsonl", "--junit=out/junit.xml")
    assert ran.returncode == FAILED
    written = read(sandbox.folder / "out" / "run.jsonl")
    assert written.complete
    assert written.header["command"].startswith("python -m conformance run --checks=R1,R2")
    cases = ElementTree.parse(sandbox.folder / "out" / "junit.xml").getroot().findall(".//testcase")
    assert len(cases) == 4
    assert sum(case.find("failure") is not None for case in cases) == 2


def test_configuration_of_the_user_does_not_interfere(sandbox):
    (sandbox.folder / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")
    (sandbox.folder / "conftest.py").write_text("raise RuntimeError('a conftest of the user')\n")
    assert sandbox.conformance("run", "--checks", "R1").returncode == FINE


def test_installed_entry_point_is_not_registered_twice(sandbox):
    sandbox.install()
    ran = sandbox.conformance("run", "--checks", "R1")
    assert ran.returncode == FINE, ran.stderr


def test_bar_on_a_terminal(sandbox):
    pytest.importorskip("rich")
    pty = pytest.importorskip("pty", reason="there are no terminals to pretend on Windows")
    script = sandbox.folder / "on_a_terminal.py"
    script.write_text(
        "import os, pty, sys\n"
        "os.environ.update(TERM='xterm', COLUMNS='120')\n"
        "command = [sys.executable, '-m', 'conformance', 'run', '--checks', 'R1,R2']\n"
        "sys.exit(os.WEXITSTATUS(pty.spawn(command)))\n"
    )
    assert pty.spawn
    ran = sandbox.python(script)
    assert ran.returncode == FAILED
    assert "2 pass, 2 fail" in ran.stdout
    assert "4/4" in ran.stdout
    assert "\x1b[1;31mFAILED: 2 pass, 2 fail" in ran.stdout
    assert "4 checks to run" not in ran.stdout


def test_several_processes_give_the_same_verdicts(sandbox):
    pytest.importorskip("xdist")
    sandbox.install()
    ran = sandbox.conformance("run", "--checks", "R1,R2,R8", "-n", "2", "--report", "run.jsonl")
    assert ran.returncode == FAILED
    verdicts = read(sandbox.folder / "run.jsonl").verdicts
    assert sorted((verdict.model, verdict.outcome.value) for verdict in verdicts) == [
        (model, outcome) for model in ("alpha-base", "beta") for outcome in ("fail", "pass", "refused")
    ]
    assert "6/6" in ran.stdout


def test_expected_failures_let_the_run_pass_and_are_said(sandbox):
    (sandbox.folder / "expected.toml").write_text(
        '"beta/R2" = "rows are off by one, https://bugs/1"\n"alpha-base/answers_are_wrong" = "likewise, https://bugs/2"\n'
    )
    ran = sandbox.conformance(
        "run", "--checks=R1,R2", "--expect=expected.toml", "--report=run.jsonl", "--junit=junit.xml"
    )
    assert ran.returncode == FINE, ran.stdout + ran.stderr
    assert "PASSED: 2 pass, 2 expected on 2 models" in ran.stdout
    assert "  beta (R2): rows are off by one, https://bugs/1\n" in ran.stdout
    shown = sandbox.conformance("report", "run.jsonl").stdout
    assert "Expected to fail, as they do:" in shown
    cases = ElementTree.parse(sandbox.folder / "junit.xml").getroot().findall(".//testcase/skipped")
    assert {case.get("type") for case in cases} == {"pytest.xfail"}
    assert any("https://bugs/1" in case.get("message") for case in cases)


def test_an_expected_failure_that_does_not_come_fails_the_run(sandbox):
    (sandbox.folder / "expected.toml").write_text('\n"beta/R1" = "was wrong once, https://bugs/1"\n')
    ran = sandbox.conformance("run", "--checks", "R1", "--expect", "expected.toml", "--junit", "junit.xml")
    assert ran.returncode == FAILED
    assert "beta/R1 (expected.toml, line 2) should fail, but does not: was wrong once, https://bugs/1." in ran.stdout
    assert "FAILED: 2 pass" in ran.stdout
    assert "PASSED" not in ran.stdout
    (case,) = ElementTree.parse(sandbox.folder / "junit.xml").getroot().findall(".//testcase[failure]")
    assert "beta/R1 should fail, but does not" in case.find("failure").text


def test_an_expected_failure_of_what_is_not_run_is_left_open(sandbox):
    (sandbox.folder / "expected.toml").write_text('"beta/R2" = "rows are off by one, https://bugs/1"\n')
    assert sandbox.conformance("run", "--checks", "R1", "--expect", "expected.toml").returncode == FINE


def test_resuming_with_other_expected_failures_starts_anew(sandbox):
    run = ("run", "--checks=R1,R2", "--report=run.jsonl", "--resume", "--expect=expected.toml")
    (sandbox.folder / "expected.toml").write_text("")
    assert sandbox.conformance(*run).returncode == FAILED
    assert "checks to run" not in sandbox.conformance(*run).stdout
    (sandbox.folder / "expected.toml").write_text('"beta/R2" = "known"\n"alpha-base/R2" = "known"\n')
    ran = sandbox.conformance(*run)
    assert ran.returncode == FINE, ran.stdout + ran.stderr
    assert "starting anew" in ran.stdout


def test_what_is_not_asked_for_now_is_not_taken_over(sandbox):
    assert sandbox.conformance("run", "--checks=R1,R2", "--report=run.jsonl").returncode == FAILED
    resumed = ("--report=run.jsonl", "--resume", "--summary=summary.md")
    ran = sandbox.conformance("run", "--models=beta", "--checks=R1", *resumed)
    assert ran.returncode == FINE, ran.stdout + ran.stderr
    assert "3 of the verdicts in run.jsonl were not asked for now: they are left out" in ran.stdout
    assert "checks to run" not in ran.stdout
    assert "PASSED: 1 pass on 1 model" in ran.stdout
    found = read(sandbox.folder / "run.jsonl")
    assert found.header["choice"] == {"models": "beta", "checks": "R1"}
    ran = sandbox.conformance("run", "--checks=R1", *resumed)
    assert "PASSED: 2 pass on 2 models" in ran.stdout
    assert "1 checks to run" in ran.stdout
    assert "left out" not in ran.stdout


def test_a_report_that_lacks_only_its_end_is_completed(sandbox):
    run = ("run", "--checks=R1", "--report=run.jsonl", "--resume")
    sandbox.conformance(*run)
    path = sandbox.folder / "run.jsonl"
    whole = read(path)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert not read(path).complete
    ran = sandbox.conformance(*run)
    assert ran.returncode == FINE, ran.stdout + ran.stderr
    assert read(path).complete
    assert read(path).verdicts == whole.verdicts
    assert read(path).header["environment"] == whole.header["environment"]


def test_what_was_asked_for_and_does_not_apply_is_said(sandbox):
    ran = sandbox.conformance("run", "--models=alpha-base", "--checks=R1,H1", "--summary=summary.md")
    assert ran.returncode == FINE
    said = "Asked for, but applies to none of these models: H1."
    assert said in ran.stdout
    assert said in (sandbox.folder / "summary.md").read_text("utf-8")
    assert said not in sandbox.conformance("run", "--checks=R1,H1").stdout


def test_a_run_appends_its_own_outputs(sandbox):
    path = sandbox.folder / "outputs"
    path.write_text("exit-code=0\n")
    sandbox.conformance("run", "--checks=R1,R2", "--outputs=outputs")
    lines = path.read_text("utf-8").splitlines()
    assert lines[:2] == ["exit-code=0", "result=FAILED"]
    assert {"pass=2", "fail=2", "skipped=0"} <= set(lines)


def test_quick_says_what_it_leaves_out(sandbox):
    ran = sandbox.conformance(
        "run", "--quick", "--models", "beta", "--expect", "expected.toml", "--report", "run.jsonl"
    )
    assert ran.returncode == USAGE  # there is no such file
    (sandbox.folder / "expected.toml").write_text(
        "".join(f'"beta/{clause}" = "known"\n' for clause in ("R2", "R5", "S1", "S2", "R1"))
    )
    ran = sandbox.conformance(
        "run", "-n2", "--quick", "--models", "beta", "--expect", "expected.toml", "--report", "run.jsonl"
    )
    assert "Quick: 2 scenarios for each check; not run: heads_are_right. Leave out --quick" in ran.stdout
    assert "heads_are_right" not in {verdict.check for verdict in read(sandbox.folder / "run.jsonl").verdicts}
    assert "should fail, but does not" not in ran.stdout  # too few scenarios to say so
    assert read(sandbox.folder / "run.jsonl").header["settings"]["examples"] == 2


@pytest.mark.parametrize("more", [("--checks", "R1"), ("--examples", "3"), ("--models", "every:bert")])
def test_quick_chooses_by_itself(sandbox, more):
    ran = sandbox.conformance("run", "--quick", *more)
    assert ran.returncode == USAGE
    assert "--quick" in ran.stderr


def test_github_is_told(sandbox):
    summary = sandbox.folder / "summary.md"
    summary.write_text("# Of another step\n")
    ran = sandbox.conformance("run", "--checks", "R1,R2", "--summary", str(summary), GITHUB_ACTIONS="true")
    assert ran.returncode == FAILED
    assert summary.read_text("utf-8").startswith("# Of another step\n### Mixed-adapter batches: FAILED: 2 pass, 2 fail")
    errors = [line for line in ran.stdout.splitlines() if line.startswith("::")]
    assert [line.partition("::row")[0] for line in errors] == [
        f"::error title={model}%2C answers_are_wrong (R2)%3A wrong" for model in ("alpha-base", "beta")
    ]
    assert "%0Areproduce('it')" in errors[0]
    assert "::" not in sandbox.conformance("run", "--checks", "R1,R2").stdout
    silent = sandbox.conformance("run", "--checks", "R1,R2", "--annotate", "none", GITHUB_ACTIONS="true")
    assert "::error" not in silent.stdout


def test_a_report_can_exit_as_its_run(sandbox):
    for checks, code in (("R1", FINE), ("R1,R2", FAILED), ("R8", NOTHING_SHOWN)):
        assert sandbox.conformance("run", "--checks", checks, "--report", "run.jsonl").returncode == code
        assert sandbox.conformance("report", "run.jsonl").returncode == FINE
        shown = sandbox.conformance("report", "run.jsonl", "--exit-code", "--summary", "summary.md")
        assert shown.returncode == code
    assert (sandbox.folder / "summary.md").read_text("utf-8").count("### Mixed-adapter batches") == 3


def test_an_error_of_our_own_is_no_clause_that_fails(sandbox):
    script = (
        "from conformance.__main__ import main, report; report.read = None; raise SystemExit(main(['report', 'x']))"
    )
    ran = sandbox.python("-c", script)
    assert ran.returncode == CUT_SHORT
    assert "TypeError" in ran.stderr


def test_list(sandbox):
    ran = sandbox.conformance("list")
    assert ran.returncode == FINE
    assert "  alpha-base " in ran.stdout
    assert "  R1, R7       rows_are_right\n" in ran.stdout


def test_report_shows_what_was_written(sandbox):
    run = sandbox.conformance("run", "--checks", "R1,R2", "--report", "run.jsonl")
    shown = sandbox.conformance("report", "run.jsonl")
    assert shown.returncode == FINE
    assert shown.stdout in run.stdout
    markdown = sandbox.conformance("report", "run.jsonl", "--markdown")
    assert "| model | R1 | R2 | R7 |" in markdown.stdout


@pytest.mark.parametrize("content", [None, "not json\n", '{"kind": "header", "format": 99}\n'])
def test_report_of_no_report_is_wrong_usage(sandbox, content):
    if content is not None:
        (sandbox.folder / "run.jsonl").write_text(content)
    ran = sandbox.conformance("report", "run.jsonl")
    assert ran.returncode == USAGE
    assert "run.jsonl" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_reports_of_several_environments_are_one_page_and_pages_where_asked(sandbox):
    run = sandbox.conformance("run", "--checks", "R1,R2", "--report", "one.jsonl")
    assert run.returncode == FAILED
    text = (sandbox.folder / "one.jsonl").read_text()
    (sandbox.folder / "two.jsonl").write_text(text.replace('"environment": {', '"environment": {"name": "c99", '))
    shown = sandbox.conformance("report", "one.jsonl", "two.jsonl")
    assert shown.returncode == FINE
    assert "| R1 | ✓ · | ✓ · |" in shown.stdout
    tables = sandbox.conformance("report", "one.jsonl", "two.jsonl", "--tables").stdout
    assert tables.count("FAILED: 2 pass, 2 fail on 2 models") == 2
    page = sandbox.folder / "docs" / "versions.md"
    assert sandbox.conformance("report", "one.jsonl", "two.jsonl", "--versions-markdown", str(page)).returncode == FINE
    assert "(versions/c99.md#r2-with-the-shim)" in page.read_text()
    assert "reproduce('it')" in (page.parent / "versions" / "c99.md").read_text()


def test_a_report_of_other_code_is_not_gone_on_from(sandbox):
    sandbox.conformance("run", "--models", "alpha-base", "--checks", "R1", "--report", "run.jsonl")
    report = sandbox.folder / "run.jsonl"
    again = sandbox.conformance("run", "--models", "alpha-base", "--checks", "R1", "--report", "run.jsonl", "--resume")
    assert "checks to run" not in again.stdout
    code = read(report).header["code"]
    report.write_text(report.read_text().replace(code, "0" * len(code)))
    again = sandbox.conformance("run", "--models", "alpha-base", "--checks", "R1", "--report", "run.jsonl", "--resume")
    assert again.returncode == FINE
    assert "run.jsonl was made by other code, versions or settings, or on another device: starting anew" in again.stdout
    assert "1 checks to run" in again.stdout or "1 check to run" in again.stdout
