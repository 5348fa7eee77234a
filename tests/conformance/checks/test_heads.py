"""What the checks of heads build: one wider head, tokens to train, weights that are tied."""

import pytest
import torch

from conformance.case import Case
from conformance.checks import heads
from conformance.compare import Inapplicable, Mismatch
from conformance.models import MODELS
from conformance.scenarios import Adapter, Scenario
from conformance.subject import base_model, lora_config


def case_of(name, **fields):
    model = MODELS[name]
    adapters = tuple(Adapter(adapter, targets=model.targets[:1], **fields) for adapter in ("ann", "ben"))
    return Case(model, Scenario(adapters, ("ann", "ben"), model.lengths[0], "ann", seed=1), "cpu")


def test_one_adapter_gets_a_wider_head_the_same_on_every_model():
    case = case_of("roberta-sequence-classification", saved=("classifier",))
    alone = case.oracle.model_of("ben")
    for model in (case.peft_model, alone):
        heads._widen_head(model, case.model.saved, "ben", 3)
    together, single = (dict(model.named_parameters()) for model in (case.peft_model, alone))
    path = "base_model.model.classifier.modules_to_save.{}.out_proj.weight"
    assert len(together[path.format("ben")]) == len(together[path.format("ann")]) + 2
    assert torch.equal(together[path.format("ben")], single[path.format("ben")])


def test_a_model_that_saves_no_linear_layer_has_no_head():
    case = case_of("gpt2", saved=("ln_f",))
    with pytest.raises(Inapplicable, match="no linear layer"):
        heads._widen_head(case.peft_model, case.model.saved, "ben", 3)


def test_modules_are_named_by_the_last_part_of_their_path():
    base = base_model(MODELS["gpt2"], "cpu")
    assert heads._name_in(base, "get_input_embeddings") == "wte"
    assert heads._name_in(base, "get_output_embeddings") == "lm_head"


def test_rows_of_other_adapters_are_compared(monkeypatch):
    case = case_of("gpt2")
    monkeypatch.setattr(Case, "mixed", lambda one, *_: one.oracle.model_of("ann")(**one.inputs))
    with pytest.raises(Mismatch, match="row 1 under 'ben'"):
        heads._expect_rows_of(case, case.scenario.adapters)


def test_an_adapter_trains_the_tokens_that_it_names():
    adapter = Adapter("ann", targets=("c_attn",))
    assert not getattr(lora_config(MODELS["gpt2"], adapter), "trainable_token_indices", None)
    if hasattr(lora_config(MODELS["gpt2"], adapter), "trainable_token_indices"):
        training = Adapter("ann", targets=("c_attn",), tokens=(4, 7))
        assert lora_config(MODELS["gpt2"], training).trainable_token_indices == [4, 7]
