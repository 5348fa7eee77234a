"""The sweep sees: a shim that is wrong, raises, refuses or tells nothing is reported as just that."""

from dataclasses import replace

import pytest
import torch

import shim
from conformance.models.every.classes import Entry
from conformance.sweep import adapted, entry, judge, reference
from conformance.sweep.finding import Finding
from conformance.sweep.stages import STAGES

BERT = Entry("bert", "base", "BertModel")
MIXTRAL = Entry("mixtral", "base", "MixtralModel")

pytestmark = pytest.mark.usefixtures("installed")


def found_of(one):
    verdicts = []
    entry.sweep(one, verdicts.append)
    assert [verdict.check for verdict in verdicts] == list(STAGES)
    return {verdict.check: verdict for verdict in verdicts}


def finding_of(verdict):
    return Finding(verdict.finding)


@pytest.fixture
def wrongly(monkeypatch):
    """Change what a mixed call gives back, or what it does."""

    def change(function):
        def run(model, batch, **more):
            if "adapter_names" not in more:
                return reference.run(model, batch)
            return function(lambda: reference.run(model, batch, **more))

        monkeypatch.setitem(entry.WAYS, "linear_layers", replace(judge.FORWARD, run=run))

    return change


@pytest.mark.parametrize("one", [BERT, MIXTRAL])
def test_the_shim_is_exact(one):
    found = found_of(one)
    assert finding_of(found["linear_layers"]) in (Finding.ONE_PASS, Finding.SPLIT, Finding.EXACT)
    assert found["linear_layers"].error < 1e-9
    assert found["linear_layers"].separation > 1e-3
    assert found["linear_layers"].examples >= 4


@pytest.mark.parametrize(
    "mistake",
    [
        lambda outputs: {path: tensor.flip(0) for path, tensor in outputs.items()},
        lambda outputs: {path: tensor.roll(1, 0) for path, tensor in outputs.items()},
        lambda outputs: {path: tensor * (1 + 1e-6) for path, tensor in outputs.items()},
        lambda outputs: {path: torch.zeros_like(tensor) for path, tensor in outputs.items()},
        lambda outputs: {path: tensor[:-1] for path, tensor in outputs.items()},
        lambda outputs: {},
    ],
)
def test_a_wrong_answer_is_wrong(wrongly, mistake):
    wrongly(lambda call: mistake(call()))
    verdict = found_of(BERT)["linear_layers"]
    assert finding_of(verdict) is Finding.WRONG
    assert verdict.outcome.fails_the_run
    assert "three samples" in verdict.detail


def test_ignoring_the_names_is_wrong_and_says_whose_answer_it_is(monkeypatch):
    ignoring = replace(judge.FORWARD, run=lambda model, batch, **more: reference.run(model, batch))
    monkeypatch.setitem(entry.WAYS, "linear_layers", ignoring)
    verdict = found_of(BERT)["linear_layers"]
    assert finding_of(verdict) is Finding.WRONG
    assert "It is what" in verdict.detail


def test_a_refusal_is_a_refusal(wrongly):
    def refuse(call):
        raise shim.RefusedError("layer mixer mixes samples")

    wrongly(refuse)
    verdict = found_of(BERT)["linear_layers"]
    assert finding_of(verdict) is Finding.REFUSED
    assert "layer mixer mixes samples" in verdict.detail
    assert not verdict.outcome.fails_the_run


def test_outputs_that_compare_samples_are_allowed_and_said():
    from shim import policy

    verdicts = found_of(Entry("clip", "base", "CLIPModel"))
    linear = verdicts["linear_layers"]
    assert finding_of(linear) is Finding.ONE_PASS
    assert "logits_per_image" in linear.detail
    assert "allowed to make these of several samples" in linear.detail
    found_of(BERT)
    assert not policy.chosen().mixed_outputs  # the next model starts without


def test_any_other_error_is_a_crash(wrongly):
    wrongly(lambda call: [][0])
    verdict = found_of(BERT)["linear_layers"]
    assert finding_of(verdict) is Finding.CRASHED
    assert "IndexError" in verdict.detail
    assert verdict.outcome.fails_the_run


def test_adapters_that_do_nothing_are_vacuous(monkeypatch):
    monkeypatch.setattr(adapted, "STRENGTH", 0.0)
    verdict = found_of(BERT)["linear_layers"]
    assert finding_of(verdict) is Finding.VACUOUS
    assert verdict.outcome.fails_the_run


def test_a_stage_without_layers_says_so():
    verdict = found_of(BERT)["fused_experts"]
    assert finding_of(verdict) is Finding.NOTHING_TO_ADAPT
    assert not verdict.outcome.fails_the_run


def test_what_cannot_be_built_says_why():
    verdicts = found_of(Entry("no-such-class", "base", ""))
    assert {finding_of(verdict) for verdict in verdicts.values()} == {Finding.CANNOT_BUILD}
    assert "configuration only" in verdicts["linear_layers"].detail


def test_layers_that_peft_cannot_adapt_are_left_out_by_name():
    verdict = found_of(Entry("whisper", "base", "WhisperModel"))["embeddings_and_convolutions"]
    assert finding_of(verdict) in (Finding.ONE_PASS, Finding.SPLIT, Finding.EXACT)
    if "without" in verdict.detail:  # newer versions of PEFT may be able to
        assert "encoder.conv1" in verdict.detail


def test_a_model_that_does_not_run_in_float64_is_judged_in_float32(monkeypatch):
    build = entry.build

    def only_float32(one):
        if torch.get_default_dtype() is torch.float64:
            raise RuntimeError("no kernel for Double")
        return build(one)

    monkeypatch.setattr(entry, "build", only_float32)
    verdict = found_of(BERT)["linear_layers"]
    assert finding_of(verdict) in (Finding.ONE_PASS, Finding.SPLIT, Finding.EXACT)
    assert 0 < verdict.error < 1e-5
