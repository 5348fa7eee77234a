"""LoRA on real quantised bases, each where its package is installed: exact, or refused for what mixes rows (L3)."""

import pytest

from conformance.methods.kinds import Method, methods
from conformance.methods.quantised import QUANTISERS
from conformance.methods.sweep import sweep
from conformance.shim_switch import shim_installed
from conformance.sweep.finding import Finding

MIX_ROWS = {"bitsandbytes-8bit-outliers", "torchao-int8-per-tensor"}


def verdict_of(name):
    method = Method("LORA", quantiser=name)
    assert method in methods()
    assert method.clauses == ("L3",)
    assert method.name == f"method:LORA+on-{name}"
    said = []
    with shim_installed(True):
        sweep(method, said.append)
    (verdict,) = said
    if "is not installed" in verdict.detail:
        pytest.skip(verdict.detail)
    return verdict


@pytest.mark.parametrize("name", [name for name in QUANTISERS if name not in MIX_ROWS])
def test_a_quantised_base_gives_each_row_its_own(name):
    verdict = verdict_of(name)
    # AQLM's kernel goes through numpy, where nothing can be followed.
    assert verdict.finding == (Finding.SPLIT if name == "aqlm" else Finding.ONE_PASS).value, verdict.detail
    assert verdict.error <= 1e-5
    assert verdict.separation > 1e-2


@pytest.mark.parametrize("name", sorted(MIX_ROWS))
def test_a_base_that_quantises_by_the_whole_batch_is_refused(name):
    verdict = verdict_of(name)
    assert verdict.finding == Finding.REFUSED.value, verdict.detail
    assert "by values of the whole batch" in verdict.detail


@pytest.mark.parametrize("name", sorted(MIX_ROWS))
def test_it_is_seen_to_be_wrong_where_it_is_not_refused(name, monkeypatch):
    """The sweep can fail: without the check some rows come out as others."""
    monkeypatch.setattr("shim.routing.plans.check_quantised", lambda _: None)
    monkeypatch.setattr("shim.routing.rehearsal.check_quantised", lambda _: None)
    verdict = verdict_of(name)
    assert verdict.finding in (Finding.WRONG.value, Finding.REFUSED.value), verdict
    assert "quantises its input" not in verdict.detail


def test_a_package_that_is_not_installed_is_said(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "hqq.core.quantize", None)
    said = []
    sweep(Method("LORA", quantiser="hqq-4bit"), said.append)
    assert said[0].finding == Finding.CANNOT_BUILD.value
    assert "hqq is not installed" in said[0].detail
