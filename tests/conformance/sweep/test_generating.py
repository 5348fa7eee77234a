"""The sweep of what models generate: each row's logits, step by step, and the route that they came by."""

from dataclasses import replace

import pytest
import torch

import shim
from conformance.compare import Inapplicable
from conformance.models.every.batch import Batch
from conformance.models.every.classes import Entry
from conformance.sweep import entry
from conformance.sweep.finding import Finding
from conformance.sweep.generating import GENERATE, TOKENS, generated, prompt_of
from conformance.sweep.judge import FLOAT64

GPT2 = Entry("gpt2", "head", "GPT2LMHeadModel")
LLAMA = Entry("llama", "head", "LlamaForCausalLM")
T5 = Entry("t5", "head", "T5ForConditionalGeneration")


@pytest.fixture(autouse=True)
def installed():
    shim.install()
    yield
    shim.uninstall()


def judged(one):
    model, dtype, tier = entry.built(one)
    with entry.precisely(dtype):
        return entry.judge_stage(one, model, "generate", tier)


@pytest.mark.parametrize("one", [GPT2, LLAMA, T5], ids=lambda one: one.name)
def test_every_row_generates_what_it_would_alone(one):
    found = judged(one)
    assert found.finding is Finding.ONE_PASS, found.detail
    assert found.error < FLOAT64.tolerance
    assert found.separation > 1e-3
    assert found.examples == 2


@pytest.mark.parametrize("step", range(TOKENS))
def test_a_wrong_row_in_any_step_is_wrong(step, monkeypatch):
    def swapped(model, batch, **more):
        found = generated(model, batch, **more)
        if "adapter_names" in more:
            found[f"logits[{step}]"] = found[f"logits[{step}]"].roll(1, 0)
        return found

    monkeypatch.setitem(entry.WAYS, "generate", replace(GENERATE, run=swapped))
    found = judged(LLAMA)
    assert found.finding is Finding.WRONG
    assert f"'logits[{step}]' differs" in found.detail


def test_names_that_are_ignored_are_wrong(monkeypatch):
    monkeypatch.setitem(
        entry.WAYS, "generate", replace(GENERATE, run=lambda model, batch, **more: generated(model, batch))
    )
    assert judged(LLAMA).finding is Finding.WRONG


def test_a_generate_that_goes_in_parts_is_said_to(monkeypatch):
    from shim.errors import Unroutable
    from shim.routing import route

    def unproven(*args):
        raise Unroutable("planted")

    monkeypatch.setattr(route, "run_one_pass_generate", unproven)
    found = judged(LLAMA)
    assert (found.finding, found.route) == (Finding.SPLIT, "split")


def test_asking_for_the_route_leaves_the_policy_as_it_was():
    from shim import policy

    shim.install(mixed_outputs=["logits_per_image"])
    before = policy.chosen()
    judged(LLAMA)
    assert policy.chosen() == replace(before, mixed_outputs=frozenset())  # each stage starts without


def test_a_model_that_does_not_generate_is_left_out():
    found = judged(Entry("bert", "base", "BertModel"))
    assert (found.finding, found.detail) == (Finding.NOTHING_TO_ADAPT, "it does not generate")


def test_generate_is_given_the_prompt_only():
    batch = Batch(2, {name: torch.zeros(2, 3) for name in ("input_ids", "labels", "decoder_input_ids", "position_ids")})
    batch.add("pixel_values", [torch.zeros(1, 2), torch.zeros(2, 2)])
    assert set(prompt_of(batch).tensors) == {"input_ids", "pixel_values"}
    assert prompt_of(batch).packed == {"pixel_values": [1, 2]}


def test_whole_numbers_show_nothing():
    class Transducer:
        config = generation_config = None

        def generate(self, **given):
            return torch.ones(2, 4, dtype=torch.long)

    with pytest.raises(Inapplicable, match="whole numbers only"):
        generated(Transducer(), Batch(2, {"input_features": torch.zeros(2, 3)}))
