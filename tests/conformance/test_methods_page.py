"""The page of every method: how each goes with the shim, and without it where that was run."""

from conformance.report.jsonl import Report
from conformance.report.methods import render
from conformance.sweep.finding import Finding, Judgement
from conformance.sweep.stages import METHOD_STAGE

HEADER = {"command": "run --models methods", "environment": {"packages": {"peft": "0.21"}}, "settings": {}}
FINDINGS = {"method:ia3": (Finding.ONE_PASS, ""), "method:xlora": (Finding.REFUSED, "it rewires | the model")}


def report(findings):
    verdicts = [Judgement(*found).verdict(model, METHOD_STAGE, 1.0) for model, found in findings.items()]
    return Report(HEADER, tuple(verdicts), {})


def test_each_method_has_its_row():
    page = render(report(FINDINGS))
    assert "1 exact in one pass, 1 refused" in page
    assert "| ia3 | exact in one pass |" in page
    assert "it rewires \\| the model" in page
    assert "without the shim |" not in page


def test_what_upstream_does_by_itself_stands_beside():
    page = render(report(FINDINGS), report({"method:ia3": (Finding.WRONG, "row 0")}))
    assert "Without the shim: 1 WRONG." in page
    assert "| ia3 | exact in one pass | WRONG |" in page
    assert "| xlora | refused |  |" in page
