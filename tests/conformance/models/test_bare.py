"""Whatever PEFT put into a model is taken off: the weights, the paths and the answers are what they were."""

import copy

import peft
import pytest
import torch
from torch import nn

from conformance.models.bare import without_adapters
from conformance.selection import CannotLoad
from tests.conformance.odd_models import Perceptron, left_over, made
from tests.conformance.own_models import causal

LORA = peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
PLAIN = peft.LoraConfig(target_modules=["up"], init_lora_weights=False)


def native(model):
    model.add_adapter(LORA, "mine")
    model.add_adapter(LORA, "yours")
    return model


def several(model):
    model = peft.get_peft_model(model, LORA, "mine")
    model.add_adapter("yours", peft.LoraConfig(target_modules=["v_proj"], modules_to_save=["lm_head"]))
    return model


def unloaded(model):
    peft.get_peft_model(model, LORA).unload()
    model.peft_config = {"default": LORA}
    return model


def with_config(config):
    return lambda model: peft.get_peft_model(model, config)


CAUSAL = {
    "add_adapter": native,
    "several, with saved modules": several,
    "what unload left": unloaded,
    "a tuner alone": lambda model: peft.LoraModel(model, {"default": LORA}, "default"),
    "a mixed model": lambda model: peft.get_peft_model(model, LORA, mixed=True),
    "IA3": with_config(peft.IA3Config(target_modules=["q_proj"], feedforward_modules=[])),
    "prompts": with_config(peft.PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")),
    "a prefix": with_config(peft.PrefixTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")),
    "adaption prompts": with_config(peft.AdaptionPromptConfig(adapter_len=2, adapter_layers=1, task_type="CAUSAL_LM")),
}


def answer(model, inputs):
    with torch.no_grad():
        return model.eval()(**inputs)


def expect_as_before(adapted, before, inputs):
    bare = without_adapters(adapted)
    assert type(bare) is type(before)
    assert {path: type(module) for path, module in bare.named_modules()} == {
        path: type(module) for path, module in before.named_modules()
    }
    weights = before.state_dict()
    assert set(bare.state_dict()) == set(weights)
    assert all(torch.equal(value, weights[path]) for path, value in bare.state_dict().items())
    assert not [module for module in bare.modules() if {"peft_config", "_hf_peft_config_loaded"} & set(vars(module))]
    mine, theirs = answer(bare, inputs), answer(before, inputs)
    assert torch.equal(getattr(mine, "logits", mine), getattr(theirs, "logits", theirs))


@pytest.mark.parametrize("how", CAUSAL)
@pytest.mark.filterwarnings("ignore")
def test_a_model_of_transformers_is_what_it_was(how):
    model, inputs = causal()
    before = copy.deepcopy(model)
    expect_as_before(CAUSAL[how](model), before, inputs)


def test_what_was_injected_is_taken_off():
    model, inputs = made()
    before = copy.deepcopy(model)
    expect_as_before(peft.inject_adapter_in_model(PLAIN, model), before, inputs)


def test_a_part_of_a_model_is_too():
    class Around(nn.Module):
        def __init__(self, part):
            super().__init__()
            self.part, self.parts = part, nn.ModuleList([part, nn.Tanh()])

        def forward(self, x):
            return self.parts[1](self.part(x))

    model, inputs = made()
    before = Around(copy.deepcopy(model))
    adapted = Around(peft.get_peft_model(model, PLAIN))
    expect_as_before(adapted, before, inputs)
    assert adapted.part is adapted.parts[0]


# Breakpoint: huggingface/peft#1324, peft 0.14: LoRA adapts the attention of torch.
@pytest.mark.skipif(not hasattr(peft.tuners.lora.layer, "MultiheadAttention"), reason="not before peft 0.14")
def test_attention_of_torch_has_its_weights_back_as_parameters():
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x):
            return self.attention(x, x, x)[0]

    torch.manual_seed(0)
    model = Attending()
    before = copy.deepcopy(model)
    config = peft.LoraConfig(target_modules=["attention"], init_lora_weights=False)
    expect_as_before(peft.get_peft_model(copy.deepcopy(model), config), before, {"x": torch.randn(2, 3, 4)})
    merged = peft.get_peft_model(model, config)
    merged.merge_adapter()
    assert {path for path, _ in without_adapters(merged).named_parameters()} == set(before.state_dict())


def test_what_is_the_users_own_stays():
    model = Perceptron()
    model.peft_config, model.base_layer, model.model = {"path": "here"}, model.up, nn.Tanh()
    assert without_adapters(model) is model
    assert model.peft_config == {"path": "here"}
    assert isinstance(model.model, nn.Tanh)


def test_what_cannot_be_taken_off_is_said():
    with pytest.raises(CannotLoad, match=r"has Left of PEFT, which cannot be taken off.*as it was before PEFT"):
        without_adapters(left_over()[0])
