"""Each worker has a GPU of its own, and each interpreter its own packages, facts and report."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from conformance import workers
from conformance.recorder import Recorder
from conformance.report.jsonl import read

pytest.importorskip("xdist")

ROOT = Path(__file__).parents[2]
SUITE = ("-p", "conformance.plugin", "--pyargs", "conformance")
OTHER = [os.environ.get("OTHER_PYTHON"), *sorted(map(str, ROOT.glob(".tox/c*/bin/python")))]


@pytest.fixture(autouse=True)
def _afresh():
    workers.gpus.cache_clear()
    yield
    workers.gpus.cache_clear()


def node(number, popen=True, python=None):
    gateway = SimpleNamespace(id=f"gw{number}", spec=SimpleNamespace(popen=popen, python=python))
    return SimpleNamespace(gateway=gateway, workerinput={})


@pytest.mark.parametrize(
    ("said", "seen"),
    [("0,1", ("0", "1")), (" GPU-a , GPU-b", ("GPU-a", "GPU-b")), ("", ()), ("-1", ()), ("2,-1,3", ("2",))],
)
def test_gpus_are_those_that_cuda_would_take(monkeypatch, said, seen):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", said)
    assert workers.gpus() == seen


def test_gpus_are_counted_by_torch_where_nothing_is_said(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert len(workers.gpus()) == torch.cuda.device_count()


def given(monkeypatch, visible, device, count, **spec):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    workers.gpus.cache_clear()
    nodes = [node(number, **spec) for number in range(count)]
    for one in nodes:
        workers.prepare(one, device)
    return [one.workerinput.get("conformance_gpu") for one in nodes]


def test_workers_are_dealt_the_gpus_in_turn(monkeypatch):
    assert given(monkeypatch, "4,7", "cuda", 5) == ["4", "7", "4", "7", "4"]
    assert given(monkeypatch, "4,7", "cuda:1", 2) == [None, None]  # a GPU was named
    assert given(monkeypatch, "4,7", "cpu", 2) == [None, None]
    assert given(monkeypatch, "", "cuda", 2) == [None, None]
    assert given(monkeypatch, "4,7", "cuda", 2, popen=False) == [None, None]  # another machine


def test_a_worker_takes_up_its_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    workers.begin(SimpleNamespace())
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,7"
    workers.begin(SimpleNamespace(workerinput={"conformance_gpu": "7"}))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "7"


def test_on_cuda_there_is_one_worker_for_each_gpu(sandbox):
    run = ("run", "-n", "auto", "--device", "cuda", "--checks", "R2", "--report", "run.jsonl")
    ran = sandbox.conformance(*run, CUDA_VISIBLE_DEVICES="4,7")
    assert ran.returncode == 1, ran.stderr
    found = read(sandbox.folder / "run.jsonl").verdicts
    assert {verdict.detail.split("; ")[-1] for verdict in found} == {"GPU 4", "GPU 7"}
    assert all("device='cuda'" in verdict.detail for verdict in found)


def renamed(folder):
    """Return another name for this interpreter, which pytest-xdist takes for another one."""
    script = folder / "python"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    script.chmod(0o755)
    return script


def across(sandbox, python, *arguments):
    report = sandbox.folder / "run.jsonl"
    ran = sandbox.pytest(
        *SUITE,
        *("--max-worker-restart=0", f"--conformance-report={report}", *arguments),
        *("--tx", "popen", "--tx", f"popen//python={python}"),
    )
    return ran, {path.name: read(path) for path in sandbox.folder.glob("run*.jsonl")}


@pytest.mark.skipif(sys.platform == "win32", reason="the other interpreter is a shell script")
def test_two_interpreters_run_everything_and_have_a_report_each(sandbox):
    ran, reports = across(sandbox, renamed(sandbox.folder), "--dist=each", "--conformance-checks=R1,R2")
    assert ran.returncode == 1, ran.stdout
    assert len(reports) == 2
    own = reports["run.jsonl"]
    (other,) = (found for name, found in reports.items() if name.startswith("run.python3."))
    for found in (own, other):
        assert found.complete
        assert sorted(v.outcome.value for v in found.verdicts) == ["fail", "fail", "pass", "pass"]
    assert ran.stdout.count("FAILED: 2 pass, 2 fail on 2 models") == 2


def test_a_test_that_died_belongs_to_the_environment_of_its_interpreter(pytestconfig):
    recorder = Recorder(pytestconfig)

    def environment(python, said=None):
        where = SimpleNamespace(gateway=SimpleNamespace(spec=SimpleNamespace(python=python)))
        return recorder._environment_of(SimpleNamespace(node=where), said)

    assert environment("py38", "{38}") == "{38}"
    assert environment("py38") == "{38}"
    assert environment("py310") == ""
    assert recorder._environment_of(SimpleNamespace(), None) == ""


@pytest.mark.skipif(sys.platform == "win32", reason="the other interpreter is a shell script")
def test_shared_among_interpreters_no_report_is_complete(sandbox):
    _, reports = across(sandbox, renamed(sandbox.folder), "--dist=load", "--conformance-checks=R1,R2")
    assert sum(len(found.verdicts) for found in reports.values()) == 4
    assert not any(found.complete for found in reports.values() if len(found.verdicts) < 4)


@pytest.mark.skipif(not any(OTHER), reason="no other interpreter: OTHER_PYTHON=PATH, or an environment of tox")
def test_another_interpreter_has_its_own_packages(sandbox):
    python = next(filter(None, OTHER))
    ran, reports = across(sandbox, python, "--dist=each", "--conformance-checks=R1")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    own = reports.pop("run.jsonl")
    (other,) = reports.values()
    assert own.complete
    assert other.complete
    assert own.header["environment"]["packages"] != other.header["environment"]["packages"]
