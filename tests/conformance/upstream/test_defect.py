"""A defect is in an environment by its versions, and explains a verdict by what that says."""

import pytest

from conformance.models import MODELS
from conformance.upstream.defect import Defect, Sighting
from conformance.verdict import Outcome, Verdict

HERE = {"torch": "2.13.0+cpu", "peft": "0.14.0"}


def defect(**affected):
    return Defect("toy", "a toy", "owner/repo#1", affected, ())


@pytest.mark.parametrize(
    ("affected", "inside"),
    [
        ({}, True),
        ({"torch": ">=2.0"}, True),
        ({"torch": ">=2.0", "peft": "<0.15"}, True),
        ({"torch": ">=2.0", "peft": "<0.14"}, False),
        ({"torch": "<2.0", "peft": "<0.15"}, False),
        ({"transformers": ">=0"}, False),
    ],
)
def test_all_versions_must_be_inside(affected, inside):
    assert defect(**affected).is_in(HERE) is inside


@pytest.mark.parametrize("version", ["0.15.0.dev0", "0.15.0rc1"])
def test_a_pre_release_counts_as_its_release(version):
    assert not defect(peft="<0.15").is_in({"peft": version})
    assert defect(peft=">=0.15").is_in({"peft": version})


def test_a_version_that_cannot_be_read_is_in_no_range():
    assert not defect(peft=">=0").is_in({"peft": "our-fork"})


def test_a_sighting_covers_its_checks_on_its_models():
    sighting = Sighting(("one", "two"), lambda model: "text" in model.tags, "x")
    assert sighting.covers(MODELS["bert"], "two")
    assert not sighting.covers(MODELS["bert"], "three")
    assert not sighting.covers(MODELS["vit"], "two")


@pytest.mark.parametrize(("detail", "explained"), [("it is\nall wrong", True), ("all is wrong", False)])
def test_a_sighting_explains_what_it_says(detail, explained):
    verdict = Verdict("bert", "one", ("R1",), Outcome.FAIL, detail)
    assert Sighting(("one",), lambda model: True, r"is.all").explains(verdict) is explained
