import xml.etree.ElementTree as ElementTree

import pytest

from conformance.report import picture
from conformance.report.jsonl import Report
from conformance.report.summary import MARKS
from conformance.verdict import Outcome, Verdict


def report(with_shim, *outcomes):
    verdicts = [Verdict(f"model-{i}", "check", ("R1",), outcome) for i, outcome in enumerate(outcomes)]
    header = {
        "environment": {"python": "3.11", "packages": {"peft": "0.21.2"}},
        "settings": {"with_shim": with_shim},
    }
    return Report(header, tuple(verdicts), {"seconds": 1.0})


def test_the_picture_is_well_formed_and_has_every_table():
    drawn = picture.render([report(False, Outcome.FAIL), report(True, Outcome.PASS, Outcome.REFUSED)])
    text = " ".join(ElementTree.fromstring(drawn).itertext())
    assert "without the shim" in text
    assert ", with the shim" in text
    assert "FAILED" in text
    assert "model-1" in text


@pytest.mark.parametrize("outcome", Outcome)
def test_every_outcome_has_its_own_look(outcome):
    marks = [element.text for element in ElementTree.fromstring(picture.render([report(True, outcome)])).iter()]
    assert MARKS[outcome].symbol in marks


def test_names_are_escaped():
    drawn = picture.render([Report({}, (Verdict("<&>", "c", ("R1",), Outcome.PASS),), {})])
    assert "<&>" in [element.text for element in ElementTree.fromstring(drawn).iter()]
