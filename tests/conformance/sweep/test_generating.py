"""The sweep of what models generate: each row's logits, step by step, and the route that they came by."""

from dataclasses import replace
from types import SimpleNamespace

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

pytestmark = pytest.mark.usefixtures("installed")


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


def config(**said):
    return SimpleNamespace(**{"is_encoder_decoder": False, "model_type": "llama", **said})


def test_generate_is_given_the_prompt_only():
    batch = Batch(2, {name: torch.zeros(2, 3) for name in ("input_ids", "labels", "decoder_input_ids", "position_ids")})
    batch.add("pixel_values", [torch.zeros(1, 2), torch.zeros(2, 2)])
    prompt = prompt_of(batch, config())
    assert set(prompt.tensors) == {"input_ids", "pixel_values"}
    assert prompt.packed == {"pixel_values": [1, 2]}


@pytest.mark.parametrize(
    ("said", "ids", "kinds"),
    [
        ({}, [[1, 2, 3], [0, 4, 5]], [[6, 6, 7], [0, 6, 7]]),
        ({"is_encoder_decoder": True}, [[1, 2, 3], [4, 5, 0]], [[6, 6, 7], [6, 7, 0]]),
        ({"model_type": "xlm"}, [[2, 3], [4, 5]], [[6, 7], [6, 7]]),
    ],
)
def test_shorter_prompts_are_padded_where_the_model_takes_it(said, ids, kinds):
    given = {
        "input_ids": torch.tensor([[1, 2, 3], [4, 5, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]]),
        "token_type_ids": torch.tensor([[6, 6, 7], [6, 7, 0]]),
        "pixel_values": torch.zeros(2, 4),
    }
    prompt = prompt_of(Batch(2, given), config(**said)).tensors
    assert (prompt["input_ids"].tolist(), prompt["token_type_ids"].tolist()) == (ids, kinds)
    assert torch.equal(prompt["attention_mask"] == 1, prompt["input_ids"] > 0)
    assert prompt["pixel_values"] is given["pixel_values"]


def test_whole_numbers_show_nothing():
    class Transducer:
        config = generation_config = None

        def generate(self, **given):
            return torch.ones(2, 4, dtype=torch.long)

    with pytest.raises(Inapplicable, match="whole numbers only"):
        generated(Transducer(), Batch(2, {"input_features": torch.zeros(2, 3)}))
