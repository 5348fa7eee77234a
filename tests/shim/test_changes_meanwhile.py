"""What another thread changes while a call runs, and what a call's trial run changes: refused, or put back."""

import threading
from contextlib import contextmanager

import peft
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

import shim
from shim import no_trace
from shim.experts import computed_for_each_adapter
from shim.modules import walk
from shim.prompts import learns_prompts
from tests.shim.test_call import Experts
from tests.tiny_models import SMALL, llama

NAMES = ["fr", "de", "__base__"]


@pytest.fixture
def model(installed_shim):
    return llama()


def meanwhile(model, change):
    """Let another thread make a change while the first layer's output is on its way to the second."""
    begun = []

    def hook(*_):
        if not begun:
            begun.append(threading.Thread(target=change))
            begun[0].start()
            begun[0].join()

    return model.get_base_model().model.layers[0].register_forward_hook(hook), begun


def call(model, inputs, generates):
    with torch.no_grad():
        if generates:
            return model.generate(**inputs, adapter_names=NAMES, max_new_tokens=3, min_new_tokens=3)
        return model(**inputs, adapter_names=NAMES).logits


@pytest.mark.parametrize("generates", [False, True])
def test_an_adapter_deleted_meanwhile_is_refused(model, generates):
    model, inputs = model
    handle, begun = meanwhile(model, lambda: model.delete_adapter("de"))
    begun.append(None)
    call(model, inputs, generates)  # the plan with the hook
    begun.clear()
    with pytest.raises(shim.RefusedError, match=r"adapters \['de'\] were deleted"):
        call(model, inputs, generates)
    handle.remove()


def test_an_adapter_loaded_anew_meanwhile_is_refused(model):
    model, inputs = model

    def again():
        config = model.peft_config["de"]
        model.delete_adapter("de")
        model.add_adapter("de", peft.LoraConfig(r=2, target_modules=sorted(config.target_modules)))

    handle, _ = meanwhile(model, again)
    with pytest.raises(shim.RefusedError, match=r"adapters \['de'\] were deleted or loaded anew"):
        call(model, inputs, False)
    handle.remove()


def test_another_adapter_may_be_deleted_meanwhile(model):
    model, inputs = model
    expected = call(model, inputs, False)
    model.add_adapter("nl", peft.LoraConfig(r=2, target_modules=["q_proj"]))
    handle, _ = meanwhile(model, lambda: model.delete_adapter("nl"))
    torch.testing.assert_close(call(model, inputs, False), expected)
    handle.remove()


@pytest.mark.parametrize("names", [NAMES, ["de"] * 3])
def test_a_shim_that_is_taken_away_meanwhile_is_told(model, names):
    model, inputs = model
    handle, begun = meanwhile(model, shim.uninstall)
    begun.append(None)
    with torch.no_grad():
        model(**inputs, adapter_names=names)  # traced: torch 1.13's modules are patched meanwhile
    begun.clear()
    with pytest.raises(shim.RefusedError, match=r"shim.uninstall\(\) was called while the call ran"), torch.no_grad():
        model(**inputs, adapter_names=names)
    handle.remove()
    shim.install()


def classifier():
    torch.manual_seed(0)
    base = BertForSequenceClassification(BertConfig(**SMALL, num_labels=3))
    config = peft.LoraConfig(r=2, target_modules=["query"], init_lora_weights=False)
    model = peft.get_peft_model(base, config, adapter_name="fr")
    model.add_adapter("de", config)
    return model.eval()


@pytest.mark.parametrize("explains", [False, True])
def test_a_refused_call_sets_no_problem_type(installed_shim, explains):
    model = classifier()
    config = model.get_base_model().config
    inputs = {"input_ids": torch.tensor([[3, 4], [5, 6]]), "labels": torch.tensor([0, 2])}
    before = dict(vars(config))
    if explains:
        assert shim.explain(model, inputs, ["fr", "de"]).route == "refuse"
    else:
        with pytest.raises(shim.RefusedError, match="loss"):
            model(**inputs, adapter_names=["fr", "de"])
    assert vars(config) == before
    assert config.problem_type is None


def test_what_a_call_remembers_is_of_its_own_adapters(monkeypatch):
    walked = []
    monkeypatch.setattr(no_trace, "walk", lambda model, adapters: walked.append(adapters) or ())
    with no_trace.failure_leaves_no_trace(nn.Linear(2, 2).train(), ["fr", "de", "fr"], {}):
        pass
    assert walked == [{"fr", "de"}]


def test_modules_and_adapters_may_come_while_they_are_looked_at():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    for found in walk(model, None):
        if found.module is model:
            model.add_module("new", nn.Linear(2, 2))

    class Config:
        @property
        def is_prompt_learning(self):
            held.peft_config[f"{len(held.peft_config)}"] = Config() if len(held.peft_config) < 3 else self
            return False

    held = nn.Module()
    held.peft_config = {"0": Config(), "1": Config()}
    assert not learns_prompts(held)


@pytest.mark.skipif(not hasattr(peft.LoraConfig, "target_parameters"), reason="PEFT has no target_parameters yet")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", ["one pass", "split"])
def test_experts_are_each_adapters_own_while_somebody_keeps_parametrizations(installed_shim, way, request):
    torch.manual_seed(0)
    if way == "split":
        request.getfixturevalue("split_only")
    config = peft.LoraConfig(r=1, target_modules=[], target_parameters=["0.weight"], init_lora_weights=False)
    model = peft.get_peft_model(nn.Sequential(Experts()), config, adapter_name="fr")
    try:
        model.add_adapter("de", config)
    except ValueError as error:  # PEFT took one such adapter only
        pytest.skip(str(error))
    x, names = torch.randn(3, 4), ["fr", "de", "__base__"]
    with torch.no_grad():
        own = torch.cat([model.eval()(x[row : row + 1], adapter_names=[name]) for row, name in enumerate(names)])
        with nn.utils.parametrize.cached():
            torch.testing.assert_close(model(x, adapter_names=names), own)
            assert not nn.utils.parametrize._cache  # what others keep there is not theirs
        assert (own[:2] - x[:2] @ model.base_model.model[0].get_base_layer().weight).abs().max() > 1e-3


def test_what_others_keep_of_parametrizations_stays(monkeypatch):
    module, other = nn.Linear(2, 2), nn.Linear(2, 2)
    cache = {(id(module), "weight"): "stale", (id(other), "weight"): "theirs"}
    monkeypatch.setattr(nn.utils.parametrize, "_cache", cache)
    module.get_base_layer = lambda: module

    @contextmanager
    def activate(layer):
        assert (id(module), "weight") not in cache
        cache[id(module), "weight"] = "new"
        yield

    with computed_for_each_adapter(activate)(module):
        assert cache[id(module), "weight"] == "new"
    assert list(cache.values()) == ["theirs"]
