"""The GitHub action and workflow: what is declared is used, inputs never become code, and the steps run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[1]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/mixed-adapters.yml").read_text("utf-8"))
INSTALL, CHECK = ACTION["runs"]["steps"]
CALL = WORKFLOW[True]["workflow_call"]  # YAML 1.1 takes the key `on` for a boolean
STEPS = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]
MODEL = "tests.conformance.own_models:module"
INJECTIONS = ["a; touch HERE", "$(touch HERE)", "`touch HERE`", '"; touch HERE; "']
BASH = shutil.which("bash")

needs_bash = pytest.mark.skipif(not BASH, reason="the steps are bash")


class Run:
    """A step of the action, run as GitHub runs it, and what it left."""

    def __init__(self, folder, step, **inputs):
        files = {"GITHUB_OUTPUT": folder / "output", "GITHUB_STEP_SUMMARY": folder / "summary.md"}
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "RUNNER_TEMP": str(folder), **inputs}
        environment.update({name: str(path) for name, path in files.items()})
        for path in files.values():
            path.touch()
        script = folder / "step.sh"
        script.write_text(step["run"], encoding="utf-8")
        ran = subprocess.run(
            [BASH, "--noprofile", "--norc", "-eo", "pipefail", str(script)],
            cwd=ROOT,
            env=environment,
            encoding="utf-8",
            capture_output=True,
        )
        self.code, self.said = ran.returncode, ran.stdout + ran.stderr
        lines = files["GITHUB_OUTPUT"].read_text("utf-8").splitlines()
        self.outputs = dict(line.split("=", 1) for line in lines)
        self.summary = files["GITHUB_STEP_SUMMARY"].read_text("utf-8")


def evaluated(step, **given):
    """Return the environment of a step, as GitHub fills it in from inputs and their defaults."""
    inputs = {
        name: str(given.get(name.replace("-", "_"), spec.get("default", ""))) for name, spec in ACTION["inputs"].items()
    }
    inputs["python"] = given.get("python", sys.executable)

    def value(expression):
        name = re.fullmatch(r"\$\{\{ (?:inputs\.)?([\w.-]+) \}\}", expression).group(1)
        return str(ROOT) if name == "github.action_path" else inputs[name]

    return {name: value(expression) for name, expression in step["env"].items()}


def check(folder, **given):
    quick = {"checks": "R2", "examples": "1"} if "checks" not in given else {}
    return Run(folder, CHECK, **evaluated(CHECK, **{"model": MODEL, **quick, **given}))


def merging(folder):
    """Return the step of the workflow that merges, on the reports in `folder`."""
    (merge,) = [step for step in STEPS if step.get("id") == "merge"]
    return {"run": merge["run"].replace("reports/", f"{folder}/reports/").replace("python ", f"{sys.executable} ")}


def test_inputs_never_become_code():
    for step in [*ACTION["runs"]["steps"], *STEPS]:
        assert "${{" not in step.get("run", ""), step


def test_every_input_and_output_is_used_and_declared():
    text = (ROOT / "action.yml").read_text("utf-8")
    assert set(re.findall(r"inputs\.([\w-]+)", text)) == set(ACTION["inputs"])
    for spec in [*ACTION["inputs"].values(), *ACTION["outputs"].values()]:
        assert spec["description"]
    called = (ROOT / ".github/workflows/mixed-adapters.yml").read_text("utf-8")
    assert set(re.findall(r"inputs\.([\w-]+)", called)) == set(CALL["inputs"])
    (use,) = [step for step in STEPS if step.get("uses") == "./.mixed-adapters"]
    assert set(use["with"]) <= set(ACTION["inputs"])


def test_every_variable_of_a_script_is_given_to_it():
    for step in ACTION["runs"]["steps"]:
        used = set(re.findall(r"\$\{?([A-Z_]{2,})", step["run"]))
        assert used - {"RUNNER_TEMP", "GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY"} == set(step["env"])


@needs_bash
def test_the_suite_is_installed_from_the_action_with_the_interpreter_that_was_given(tmp_path):
    python = tmp_path / "a python"
    python.write_text(f"#!{BASH}\nprintf '%s\\n' \"$@\"\n")
    python.chmod(0o755)
    ran = Run(tmp_path, INSTALL, **evaluated(INSTALL, model=MODEL, python=str(python)))
    assert ran.said.splitlines() == ["-m", "pip", "install", f"{ROOT}[conformance]"]


@needs_bash
def test_a_model_that_holds_passes_with_counts_a_report_and_a_summary(tmp_path):
    ran = check(tmp_path)
    assert ran.code == 0, ran.said
    assert ran.outputs["result"] == "PASSED"
    assert (ran.outputs["pass"], ran.outputs["fail"], ran.outputs["exit-code"]) == ("1", "0", "0")
    assert Path(ran.outputs["report"]).is_file()
    assert ran.summary.startswith("### Mixed-adapter batches: PASSED: 1 pass")
    assert "::error" not in ran.said
    assert set(ACTION["outputs"]) == set(ran.outputs)


@needs_bash
def test_a_model_that_does_not_fails_and_is_annotated(tmp_path):
    ran = check(tmp_path, args="--without-shim\n", python_args="-X utf8 -W ignore")
    assert ran.code == 1, ran.said
    assert (ran.outputs["result"], ran.outputs["fail"], ran.outputs["exit-code"]) == ("FAILED", "1", "1")
    assert re.search(
        r"^::error title=own%3A.*,file=tests/conformance/own_models\.py,line=\d+::", ran.said, re.MULTILINE
    )
    assert "<details>" in ran.summary


@needs_bash
def test_an_expected_failure_is_no_failure(tmp_path):
    expected = tmp_path / "expected.toml"
    expected.write_text(f'"{MODEL}/R2" = "no shim here, https://bugs/1"\n')
    ran = check(tmp_path, checks="R2", examples="1", args="--without-shim", expect=str(expected))
    assert ran.code == 3, ran.said  # it is all there was
    assert (ran.outputs["result"], ran.outputs["expected"], ran.outputs["fail"]) == ("NOTHING SHOWN", "1", "0")
    assert "no shim here, https://bugs/1" in ran.summary


@needs_bash
@pytest.mark.parametrize(
    "model", ["no.such:model", "--help", "a; touch HERE", "$(touch HERE)", "`touch HERE`", '"; touch HERE; "']
)
def test_what_cannot_be_loaded_is_wrong_usage_and_never_run(tmp_path, model):
    here = tmp_path / "here"
    ran = check(tmp_path, model=model.replace("HERE", str(here)))
    assert ran.code == 2, ran.said
    assert ran.outputs["exit-code"] == "2"
    assert "result" not in ran.outputs
    assert not here.exists()


@needs_bash
def test_a_suite_that_dies_was_cut_short(tmp_path):
    python = tmp_path / "python"
    python.write_text(f"#!{BASH}\nexit 4\n")
    python.chmod(0o755)
    ran = check(tmp_path, python=str(python))
    assert ran.code == 4
    assert (ran.outputs["result"], ran.outputs["exit-code"]) == ("CUT SHORT", "4")


@needs_bash
def test_a_shard_alone_is_not_the_whole_run(tmp_path):
    ran = check(tmp_path, checks="R2,F2", examples="1", shard="1/2", report=f"{tmp_path}/reports/1.jsonl")
    assert ran.code == 0, ran.said
    (tmp_path / "output").unlink()
    ran = Run(tmp_path, merging(tmp_path))
    assert ran.code == 4, ran.said
    assert ran.outputs["result"] == "CUT SHORT"


@needs_bash
@pytest.mark.parametrize("name", ["checks", "device", "args", "expect", "examples", "shard", "workers", "python-args"])
def test_no_input_is_run(tmp_path, name):
    here = tmp_path / "here"
    ran = check(tmp_path, **{"checks": "R2", name.replace("-", "_"): f"$(touch {here}); touch {here} `touch {here}`"})
    assert ran.code != 0
    assert not here.exists(), ran.said


@needs_bash
def test_shards_are_merged_as_the_workflow_does(tmp_path):
    for part in ("1/2", "2/2"):
        ran = check(
            tmp_path,
            checks="R2,F2",
            examples="1",
            shard=part,
            report=f"{tmp_path}/reports/{part[0]}.jsonl",
            summary="false",
        )
        assert ran.code == 0, ran.said
        assert ran.outputs["result"] == "PASSED"  # its own part; whether all are there is the merging's to say
        assert ran.summary == ""
    (tmp_path / "output").unlink()
    ran = Run(tmp_path, merging(tmp_path))
    assert ran.code == 0, ran.said
    assert (ran.outputs["result"], ran.outputs["pass"]) == ("PASSED", "2")
    assert "Shard" not in ran.summary
