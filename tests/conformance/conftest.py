"""A folder outside the project where the suite runs on stand-ins: quick, and with every outcome to hand."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Python imports `sitecustomize` at its start, in pytest-xdist's workers too, before anything of ours.
STAND_INS = """
import contextlib, os, sys, types
from dataclasses import dataclass
from typing import Tuple


@dataclass(frozen=True)
class Model:
    name: str
    tags: frozenset = frozenset({"text"})


@dataclass(frozen=True)
class Check:
    name: str
    clauses: Tuple[str, ...]
    quick: bool = True

    def applies_to(self, model):
        return not (self.name == "heads_are_right" and model.name == "alpha-base")


def examine(model, check, settings):
    from conformance.verdict import Outcome, Verdict

    def verdict(outcome, detail="", **measured):
        return Verdict(model.name, check.name, check.clauses, Outcome(outcome), detail, **measured)

    print("noise from a model")
    if check.name == "answers_are_wrong":
        said = f"row 1: observed 3, expected 4; {settings}; GPU {os.environ.get('CUDA_VISIBLE_DEVICES')}"
        return verdict("fail", said, reproduction="from conformance import reproduce\\nreproduce('it')")
    if check.name == "mixers_are_refused":
        return verdict("refused", "layer mixer mixes samples")
    if check.name == "adapters_are_alike":
        return verdict("vacuous", "no power")
    if check.name == "the_process_dies":
        os._exit(9)
    if check.name == "the_suite_breaks":
        raise RuntimeError("a bug of the suite")
    return verdict("pass", error=1e-15, separation=0.5, examples=settings.examples)


@contextlib.contextmanager
def shim_installed(wanted):
    with open(os.environ["SHIM_LOG"], "a") as log:
        print("installed" if wanted else "left out", file=log)
    yield
    with open(os.environ["SHIM_LOG"], "a") as log:
        print("over", file=log)


def device_named(name):
    if name == "abacus":
        from conformance.selection import UnknownChoiceError

        raise UnknownChoiceError(f"device {name!r} cannot be used here")
    return name


def module(name, **contents):
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(contents)


CHECKS = [
    Check("rows_are_right", ("R1", "R7")),
    Check("heads_are_right", ("H1",), quick=False),
    Check("answers_are_wrong", ("R2",)),
    Check("mixers_are_refused", ("R8",)),
    Check("adapters_are_alike", ("R5",)),
    Check("the_process_dies", ("S1",)),
    Check("the_suite_breaks", ("S2",)),
]
module("conformance.models", MODELS={name: Model(name) for name in ("beta", "alpha-base")}, Model=Model)
module("conformance.subject", device_named=device_named)
module("conformance.checks", CHECKS={check.name: check for check in CHECKS}, Check=Check)
module("conformance.examination", examine=examine, reproduce=None)
module("conformance.shim_switch", shim_installed=shim_installed)
"""


_OF_A_CI = ("CI", "BUILD_NUMBER", "GITHUB_ACTIONS", "GITHUB_WORKSPACE")


class Sandbox:
    """Runs commands in `folder`, with the project on the path as it is in a checkout: as if not installed."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "sitecustomize.py").write_text(STAND_INS)
        self.shim_log = folder / "shim.log"
        self.installed = False

    def install(self):
        """Make the project look installed, entry points included."""
        self.installed = True
        info = self.folder / "mixed_adapter_batches-0.1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mixed-adapter-batches\nVersion: 0.1.0\n")
        (info / "entry_points.txt").write_text("[pytest11]\nconformance = conformance.plugin\n")

    def python(self, *arguments, **variables):
        # Under CI pytest repeats every failure in full in its summary, and we annotate.
        kept = {name: value for name, value in os.environ.items() if name not in _OF_A_CI}
        environment = {name: value for name, value in kept.items() if not name.startswith("PYTEST_")}
        environment.update(
            PYTHONPATH=os.pathsep.join([str(self.folder), str(ROOT)]),
            PYTHONIOENCODING="utf-8",
            SHIM_LOG=str(self.shim_log),
            **variables,
        )
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=self.folder,
            env=environment,
            encoding="utf-8",
            capture_output=True,
        )

    def pytest(self, *arguments):
        # Where the project really is installed its entry point must not stand in for the plugin under test.
        blocked = () if self.installed else ("-p", "no:conformance")
        return self.python("-m", "pytest", "-p", "no:cacheprovider", *blocked, *arguments)

    def conformance(self, *arguments, **variables):
        return self.python("-m", "conformance", *arguments, **variables)


@pytest.fixture
def sandbox(tmp_path):
    return Sandbox(tmp_path)
