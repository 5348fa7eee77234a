"""A service written for PEFT 0.11 fails without the shim, and unchanged with it answers as one request at a time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVICE = ROOT / "examples" / "legacy_service.py"
REQUESTS = [
    {"customer": "ann", "tokens": [5, 9, 12, 7]},
    {"customer": "ben", "tokens": [5, 9, 12, 7]},
    {"tokens": [5, 9, 12, 7]},
    {"customer": "ann", "tokens": [33, 8]},
    {"customer": "ben", "tokens": [40, 41, 42]},
]


def served(*command):
    """Run a command in a folder of no importance, with the requests on standard input."""
    return subprocess.run(
        [sys.executable, *map(str, command)],
        input="".join(json.dumps(request) + "\n" for request in REQUESTS),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def answers(run):
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.fixture(scope="module")
def expected():
    found = answers(served(SERVICE, "--one-at-a-time"))
    told = [tuple(answer["answer"]) for answer in found]
    assert len(set(told[:3])) == 3, "one prompt under three adapters must give three answers, or nothing is shown"
    return found


def test_without_the_shim_it_fails():
    run = served(SERVICE)
    assert run.returncode != 0
    assert run.stdout == ""
    assert run.stderr.splitlines()[-1].startswith(("TypeError: ", "ValueError: "))


def test_it_runs_unchanged_under_the_shims_command(expected):
    assert answers(served("-m", "shim", "run", SERVICE)) == expected


def test_one_line_at_its_top_is_enough(expected, tmp_path):
    script = tmp_path / "service.py"
    script.write_text("import shim; shim.install()\n" + SERVICE.read_text())
    assert answers(served(script)) == expected
