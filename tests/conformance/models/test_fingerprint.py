"""Whatever a verdict on a user's model hangs on changes its fingerprint, and nothing else does."""

import json
import random
import sys

import pytest

from conformance.models.fingerprint import fingerprint

MODEL = """
import json
from pathlib import Path

import torch
from torch import nn

from fingerprinted import parts
from fingerprinted.parts import Pooling

given = json.loads((Path(__file__).parent / "given.json").read_text())


def build():
    model = nn.Sequential(nn.Linear(4, given["width"]), Pooling(given["scale"]), nn.Linear(given["width"], 2))
    model[0].bias.data.fill_(given["bias"])
    model.register_buffer("mean", torch.full((1,), given["mean"]))
    return model, {"input": torch.ones(3, 4) * given["input"]}


def seeded_elsewhere():
    import random

    model, inputs = build()
    model[0].bias.data.fill_(random.random())
    return model, inputs


def raising():
    raise RuntimeError("no weights here")
"""
PARTS = """
from torch import nn


class Pooling(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, input):
        return input * self.scale
"""
GIVEN = {"width": 5, "scale": 1.5, "bias": 0.5, "mean": 0.0, "input": 1.0}


@pytest.fixture
def of(tmp_path, monkeypatch):
    """Return the fingerprint of a model in a package of a user's, read anew as another process would."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # of two versions in one second the older would be read
    package = tmp_path / "fingerprinted"
    package.mkdir()

    def forget():
        fingerprint.cache_clear()
        for name in [name for name in sys.modules if name.split(".")[0] == "fingerprinted"]:
            del sys.modules[name]

    def found(function="build", parts=PARTS, **given):
        for name, text in (("__init__", ""), ("models", MODEL), ("parts", parts)):
            (package / f"{name}.py").write_text(text, encoding="utf-8")
        (package / "given.json").write_text(json.dumps({**GIVEN, **given}))
        forget()
        return fingerprint(f"fingerprinted.models:{function}")

    yield found
    forget()


def test_the_same_model_has_the_same_one_though_its_weights_are_drawn(of):
    assert of() == of() != ""


@pytest.mark.parametrize(
    "changed",
    [
        {"parts": PARTS.replace("input * self.scale", "input * self.scale - input.mean(0)")},
        {"width": 6},
        {"scale": 2.5},
        {"bias": 1.5},
        {"mean": 1.0},
        {"input": 2.0},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_code_structure_attributes_weights_and_inputs_change_it(of, changed):
    assert of() != of(**changed) != ""


def test_what_is_drawn_by_another_generator_is_never_the_same(of):
    random.seed(0)
    assert of("seeded_elsewhere") != of("seeded_elsewhere")


def test_a_model_that_cannot_be_made_has_none(of):
    assert of("raising") == ""
    fingerprint.cache_clear()
    assert fingerprint("no.such.module:build") == ""


def test_of_transformers_it_is_alike_in_every_process_and_different_for_each_class():
    pytest.importorskip("transformers")
    names = ("transformers:BertModel", "transformers:BertForMaskedLM")
    found = {name: fingerprint(name) for name in names}
    fingerprint.cache_clear()
    assert found == {name: fingerprint(name) for name in reversed(names)}
    assert len(set(found.values())) == 2
    assert all(found.values())


def test_making_it_leaves_the_users_random_numbers_alone(of):
    import torch

    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    of()
    assert torch.equal(torch.rand(2), expected)
