"""A mixed generate never runs the graph that generate compiles by itself; a plain one still does."""

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model

import shim
from shim.patches.compiled_generate import PATCH

pytestmark = [
    pytest.mark.skipif(not PATCH.expected, reason="this generate does not compile"),
    # torch's word about Python 3.13.0, which as an error would stop dynamo
    pytest.mark.filterwarnings("ignore:Guards may run slower"),
]
NAMES = ["fr", "de", "__base__"]


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    model = get_peft_model(transformers.LlamaForCausalLM(config).double(), lora, adapter_name="fr")
    model.add_adapter("de", lora)
    return model.eval().double()


@pytest.fixture
def compiled(monkeypatch):
    """Keywords that make generate compile on the CPU, and how often it did."""
    calls = []
    compile_ = torch.compile
    monkeypatch.setattr(transformers.CompileConfig, "_compile_all_devices", True, raising=False)
    # 4.47 compiles on CUDA alone: ask for the compiled call wherever it would.
    monkeypatch.setattr(torch, "compile", lambda f, **_: calls.append(f) or compile_(f, backend="eager"))
    config = transformers.CompileConfig(fullgraph=False, mode="default")
    yield {"cache_implementation": "static", "compile_config": config}, calls
    torch._dynamo.reset()


def generate(model, **settings):
    ids = torch.arange(15).view(3, 5) % 60 + 3
    tokens = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    return model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **tokens, **settings)


@pytest.mark.skipif(
    not hasattr(transformers.CompileConfig, "_compile_all_devices") if PATCH.expected else True,
    reason="this generate compiles on CUDA alone",
)
def test_a_mixed_generate_is_not_compiled_and_right(model, compiled, installed_shim):
    settings, calls = compiled
    expected = generate(model, adapter_names=NAMES)
    assert generate(model, adapter_names=NAMES, **settings).tolist() == expected.tolist()
    assert not calls
    generate(model, **settings)
    assert calls, "the setting makes no generate compile, so that nothing was tested"
    assert generate(model, adapter_names=NAMES, **settings).tolist() == expected.tolist()


def test_a_plain_call_still_gets_the_compiled_one(model, compiled, installed_shim):
    settings, calls = compiled
    base = model.get_base_model()
    compiled_call = base.get_compiled_call(settings["compile_config"])
    assert calls
    assert base.get_compiled_call(settings["compile_config"]) is compiled_call


def test_the_probe_sees_the_defect_and_its_mending():
    shim.uninstall()
    assert PATCH.is_broken()
    shim.install()
    assert not PATCH.is_broken()
    shim.uninstall()
