"""The sweep from the command line: chosen by name, in children, resumed, counted, and written down."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conformance.report.jsonl import read
from conformance.sweep.stages import STAGES

ROOT = Path(__file__).parents[2]
FINE, FAILED, USAGE = 0, 1, 2


def conformance(*arguments, **environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(
        [sys.executable, "-m", "conformance", *map(str, arguments)],
        cwd=ROOT,
        env={**kept, "PYTHONIOENCODING": "utf-8", **environment},
        encoding="utf-8",
        capture_output=True,
    )


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A run of two classes, and its report."""
    report = tmp_path_factory.mktemp("sweep") / "run.jsonl"
    return conformance("run", "--models", "every:bert", "--report", report), report


def test_one_verdict_for_each_stage_of_each_class(swept):
    ran, report = swept
    assert ran.returncode == FINE, ran.stdout + ran.stderr
    verdicts = read(report).verdicts
    assert [(verdict.model, verdict.check) for verdict in verdicts] == [
        (model, stage) for model in ("every:bert", "every:bert+head") for stage in STAGES
    ]
    assert read(report).complete
    assert "8 checks to run" in ran.stdout
    assert "nothing to adapt" in ran.stdout
    assert "PASSED: 5 pass, 3 skipped on 2 models" in ran.stdout


def test_resuming_runs_what_is_left_and_keeps_the_rest(swept, tmp_path):
    _, report = swept
    lines = report.read_text().splitlines()
    cut = tmp_path / "cut.jsonl"
    head = [line for line in lines[:-1] if json.loads(line).get("model") != "every:bert+head"]
    cut.write_text("\n".join(head) + "\n")
    ran = conformance("run", "--models", "every:bert", "--report", cut, "--resume")
    assert ran.returncode == FINE, ran.stdout + ran.stderr
    assert "4 checks to run" in ran.stdout
    again = read(cut)
    assert again.complete
    assert {verdict.model for verdict in again.verdicts} == {"every:bert", "every:bert+head"}
    assert again.verdicts[:3] == read(report).verdicts[:3]


def test_resuming_what_is_done_runs_nothing(swept):
    _, report = swept
    before = report.read_text()
    ran = conformance("run", "--models", "every:bert", "--report", report, "--resume")
    assert ran.returncode == FINE, ran.stderr
    assert "checks to run" not in ran.stdout
    assert "PASSED: 5 pass" in ran.stdout
    assert report.read_text() == before


def test_resuming_needs_a_report():
    ran = conformance("run", "--models", "every:bert", "--resume")
    assert ran.returncode == USAGE
    assert "--report" in ran.stderr


def test_page_of_all_models(swept, tmp_path):
    _, report = swept
    page = tmp_path / "docs" / "models.md"
    ran = conformance("report", report, "--models-markdown", page)
    assert ran.returncode == FINE, ran.stderr
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Every model type\n")
    assert "transformers " in text
    assert "| bert\\+head |" in text or "| bert+head |" in text
    assert "| nothing to adapt | 0 | 0 | 2 |" in text


def test_a_report_without_a_sweep_has_no_such_page(swept, tmp_path):
    _, report = swept
    first, *_, last = report.read_text().splitlines()
    empty = tmp_path / "empty.jsonl"
    empty.write_text(f"{first}\n{last}\n")
    ran = conformance("report", empty, "--models-markdown", tmp_path / "models.md")
    assert ran.returncode == USAGE
    assert "sweep" in ran.stderr


def test_unknown_type_is_wrong_usage():
    ran = conformance("run", "--models", "every:no-such-type")
    assert ran.returncode == USAGE
    assert "no model type is called every:no-such-type" in ran.stderr


def test_without_the_shim_upstream_is_judged(tmp_path):
    report = tmp_path / "run.jsonl"
    ran = conformance("run", "--models", "every:swin+head", "--without-shim", "--report", report)
    assert ran.returncode == FAILED
    assert {verdict.route for verdict in read(report).verdicts} == {"unknown"}
    assert any(verdict.finding in ("crashed", "WRONG") for verdict in read(report).verdicts)
    assert "--models every:swin+head --without-shim" in ran.stdout


def test_types_are_listed():
    ran = conformance("list", "--models", "every:swin")
    assert ran.returncode == FINE, ran.stderr
    assert "SwinModel\n" in ran.stdout
    assert "every:swin+head" in ran.stdout
