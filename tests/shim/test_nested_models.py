"""A PEFT model inside of the one that is called with names: its layers are the call's, as under PEFT alone."""

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch import nn

import shim
from tests.shim.engines.rows import NAMES, adapted, base_llama, distance, expect_rows, sentences


@pytest.fixture(autouse=True)
def _shim(installed_shim):
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(default)


class Holder(nn.Module):
    """A module of one's own, around a model that has been adapted before."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, **inputs):
        return self.inner(**inputs)


def frozen_lora(base):
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    return get_peft_model(base, config, adapter_name="frozen")


def frozen_prompt(base):
    return get_peft_model(base, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3), adapter_name="frozen")


@pytest.mark.parametrize(
    "inner", [frozen_lora, frozen_prompt, lambda base: Holder(frozen_lora(base))], ids=["lora", "prompt", "held"]
)
def test_layers_of_a_model_inside_run_under_their_rows_adapters(inner):
    torch.manual_seed(0)
    model, inputs = adapted(inner(base_llama()), ("v_proj",), task_type=None), sentences(len(NAMES))
    with torch.no_grad():
        for _ in range(2):
            expect_rows(model(**inputs, adapter_names=NAMES).logits, model, inputs, NAMES)
        alike = ["de"] * len(NAMES)
        expect_rows(model(**inputs, adapter_names=alike).logits, model, inputs, alike)
        assert "v_proj" in str(shim.explain(model, inputs, NAMES))


def test_a_call_from_a_hook_is_one_of_its_own():
    """Its answer is the active adapter's, whichever part of the running call's model has the hook."""
    torch.manual_seed(0)
    inner = frozen_lora(base_llama())
    model, inputs, seen = adapted(Holder(inner), ("v_proj",), task_type=None), sentences(len(NAMES)), []
    model.set_adapter("it")
    with torch.no_grad():
        active = model(**inputs).logits

        def calls(*_):
            handle.remove()
            seen.append(model(**inputs).logits)

        handle = inner.register_forward_hook(calls)
        mixed = model(**inputs, adapter_names=NAMES).logits
    assert len(seen) == 1
    assert distance(seen[0], active) <= 1e-12
    assert distance(mixed, active) > 1e-3


def test_whether_a_model_is_inside_is_asked_without_touching_its_modules(monkeypatch):
    """PEFT's attention takes its weights off while `modules()` goes over it: another thread that runs it finds none."""
    torch.manual_seed(0)
    model, inputs = adapted(frozen_lora(base_llama()), ("v_proj",), task_type=None), sentences(len(NAMES))

    def touched(module):
        raise AssertionError(f"the modules of a {type(module).__name__} were asked for")

    with torch.no_grad():
        first = model(**inputs, adapter_names=NAMES).logits
        inside = model.get_base_model()
        monkeypatch.setattr(type(inside), "modules", touched)
        monkeypatch.setattr(type(model), "modules", touched)
        assert torch.equal(model(**inputs, adapter_names=NAMES).logits, first)
