"""What the sweep of methods says of some: exact with the shim, seen to be wrong without it."""

import pytest

from conformance.methods.kinds import Method, methods
from conformance.methods.sweep import sweep
from conformance.report import methods as page
from conformance.report.jsonl import Report
from conformance.shim_switch import shim_installed
from conformance.sweep.finding import Finding
from conformance.sweep.stages import METHOD_STAGE
from conformance.verdict import Outcome

HERE = set(methods())
VARIANT = Method("LORA", "tokens")


def verdict_of(method, with_shim):
    said = []
    with shim_installed(with_shim):
        sweep(method, said.append)
    (verdict,) = said
    assert (verdict.model, verdict.check, verdict.clauses) == (method.name, METHOD_STAGE, method.clauses)
    return verdict


@pytest.mark.parametrize(
    ("method", "finding"),
    [
        (Method("IA3"), Finding.ONE_PASS),
        (Method("LORA", "ranks"), Finding.ONE_PASS),
        (VARIANT, Finding.ONE_PASS),
        (Method("PREFIX_TUNING"), Finding.SPLIT),
    ],
    ids=str,
)
def test_a_method_is_exact_with_the_shim(method, finding):
    if method not in HERE:
        pytest.skip("not in this PEFT")
    verdict = verdict_of(method, True)
    assert verdict.finding == finding.value, verdict.detail
    assert verdict.separation > 1e-3
    assert verdict.examples > 3


@pytest.mark.parametrize("method", [Method("IA3"), Method("PROMPT_TUNING")], ids=str)
def test_names_that_upstream_ignores_are_seen(method):
    """The sweep itself can fail: these two drop the names without a word (huggingface/peft#1558 serves LoRA alone)."""
    verdict = verdict_of(method, False)
    assert verdict.finding == Finding.WRONG.value
    assert verdict.outcome is Outcome.FAIL


def test_what_the_shim_refuses_is_said_by_method():
    verdict = verdict_of(Method("ADAPTION_PROMPT"), True)
    assert verdict.finding == Finding.REFUSED.value
    assert "the method ADAPTION_PROMPT" in verdict.detail


def test_what_peft_refuses_is_said():
    verdict = verdict_of(Method("LORA", "no such variant"), True)
    assert verdict.finding == Finding.CANNOT_BUILD.value
    assert "PEFT refuses two of them" in verdict.detail


def test_the_page_has_a_row_for_each_with_its_reason():
    verdicts = [verdict_of(Method("IA3"), True), verdict_of(Method("ADAPTION_PROMPT"), True)]
    report = Report({"command": "run", "settings": {"with_shim": True}}, tuple(verdicts), {"planned": 2})
    text = page.render(report)
    assert "1 exact in one pass, 1 refused" in text
    assert "| IA3 | exact in one pass |" in text
    assert "| ADAPTION\\_PROMPT | refused |" in text
    assert page.swept(Report({}, (), {})) == []
