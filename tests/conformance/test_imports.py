"""Importing the suite costs nothing: no torch, no PEFT, no Hypothesis, until a check runs."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "peft", "transformers", "hypothesis")


def imported_by(statement, heavy=HEAVY):
    code = f"{statement}\nimport sys\nprint(*[name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.split()


@pytest.mark.parametrize(
    "module",
    [
        "conformance",
        "conformance.checks",
        "conformance.models",
        "conformance.examination",
        "conformance.shim_switch",
    ],
)
def test_imports_nothing_heavy(module):
    assert imported_by(f"import {module}") == []


@pytest.mark.parametrize("module", ["conformance.plugin", "conformance.__main__", "conformance.test_contract"])
def test_driving_imports_not_even_rich_nor_what_it_drives(module):
    heavy = (*HEAVY, "rich", "conformance.models", "conformance.checks", "conformance.examination")
    assert imported_by(f"import {module}", heavy) == []


def test_collecting_imports_nothing_heavy():
    code = "from conformance.selection import chosen_pairs; assert chosen_pairs()"
    assert imported_by(code) == []


@pytest.mark.parametrize("first", ["reproduce", "examine", "CHECKS", "Outcome"])
def test_exports_are_the_objects_themselves(first):
    imported_by(
        f"from conformance import {first}\n"
        "import conformance\n"
        "assert set(conformance.__all__) <= set(dir(conformance))\n"
        "assert callable(conformance.examine) and callable(conformance.reproduce)\n"
        "assert conformance.MODELS and conformance.CHECKS\n"
        "assert conformance.Outcome.PASS == 'pass' and conformance.Settings() and conformance.Verdict\n"
    )


def test_unknown_name_is_an_attribute_error():
    imported_by(
        "import conformance\n"
        "try:\n    conformance.nothing\n"
        "except AttributeError as error:\n    assert 'nothing' in str(error)\n"
        "else:\n    raise SystemExit(1)"
    )
