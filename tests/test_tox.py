"""The cells of `tox.ini` are those that the shim says it was tested on, each with one torch, peft and transformers."""

import configparser
import re
from itertools import product
from pathlib import Path

import pytest

from shim.versions import CELLS, Cell

ROOT = Path(__file__).parents[1]
TOX = configparser.ConfigParser(interpolation=None)
TOX.read(ROOT / "tox.ini")


def expanded(text):
    """`a{1,2}` as tox reads it: a1, a2."""
    parts = [part.strip("{}").split(",") if part.startswith("{") else [part] for part in re.split(r"(\{.*?\})", text)]
    return ["".join(chosen) for chosen in product(*parts)]


def of_cell(option, cell):
    """The values of a multi-line option that hold in `cell`."""
    found = []
    for line in TOX["testenv"][option].splitlines():
        factors, colon, value = line.partition(": ")
        if not colon:
            found.append(line)
        elif cell in [name for factor in re.split(r",\s*(?![^{]*\})", factors) for name in expanded(factor)]:
            found.append(value)
    return [value for value in found if value]


def test_the_default_environments_are_the_cells():
    assert expanded(TOX["tox"]["env_list"]) == list(CELLS)


def test_full_is_every_cell_and_gate_the_oldest_and_a_middle_one():
    labels = dict(re.split(r"\s*=\s*", line, maxsplit=1) for line in TOX["tox"]["labels"].splitlines() if line)
    assert expanded(labels["full"]) == list(CELLS)
    gate = labels["gate"].split(", ")
    torches = sorted({tuple(map(int, cell.torch.split("."))) for cell in CELLS.values()})
    found = [torches.index(tuple(map(int, CELLS[name].torch.split(".")))) for name in gate]
    assert len(found) == 2
    assert found[0] == 0 < found[1] < len(torches) - 1


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_pins_what_the_shim_says(name):
    (python,) = of_cell("base_python", name)
    pins = dict(dep.split("==") for dep in of_cell("deps", name) if "==" in dep)
    assert Cell(python[len("python") :], pins["torch"], pins["peft"], pins["transformers"]) == CELLS[name]


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_has_each_distribution_once(name):
    names = [re.split(r"[<>=]", dep)[0] for dep in of_cell("deps", name)]
    assert sorted(set(names)) == sorted(names)


def test_latest_pins_nothing():
    deps = of_cell("deps", "latest")
    assert {"torch", "peft", "transformers"} < set(deps)
    assert not [dep for dep in deps if "==" in dep or "<" in dep]
