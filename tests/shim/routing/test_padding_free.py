"""Samples that follow each other in one row, as transformers' `DataCollatorWithFlattening` lays them: no padding."""

import peft
import pytest
import torch
import transformers
from packaging.version import Version
from transformers import LlamaConfig, LlamaForCausalLM

import shim

LENGTHS = (3, 5, 4)
NAMES = ("ann", "__base__", "ben")
# Breakpoint: huggingface/transformers#39194, 4.53: positions that begin anew keep samples apart in eager and SDPA.
KEPT_APART = Version(transformers.__version__) >= Version("4.53")


def make_llama(attention):
    torch.manual_seed(0)
    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    base = LlamaForCausalLM(LlamaConfig(**sizes, **heads, attn_implementation=attention, use_cache=False))
    config = peft.LoraConfig(r=2, lora_alpha=16, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    model = peft.get_peft_model(base.double(), config, adapter_name="ann")
    model.add_adapter("ben", config)
    return model.double().eval()


def flattened():
    """Return the tokens, their positions and their samples, each of shape (1, tokens)."""
    tokens = torch.randint(0, 32, (1, sum(LENGTHS)), generator=torch.Generator().manual_seed(1))
    positions = torch.cat([torch.arange(length) for length in LENGTHS])[None]
    return tokens, positions, torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))[None]


def run_flattened(model):
    tokens, positions, owners = flattened()
    return model(input_ids=tokens, position_ids=positions, owners={"input_ids": owners}, adapter_names=list(NAMES))


@pytest.mark.skipif(KEPT_APART, reason="samples are kept apart")
def test_a_model_that_mixes_them_is_refused(installed_shim):
    with pytest.raises(shim.RefusedError, match="mixes samples"):
        run_flattened(make_llama("eager").float())  # 4.36 makes no mask in float64


@pytest.mark.skipif(not KEPT_APART, reason="transformers 4.53 keeps samples apart")
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_each_sample_is_its_own(installed_shim, attention):
    model = make_llama(attention)
    with torch.no_grad():
        mixed = run_flattened(model).logits.split(LENGTHS, 1)
        for name, tokens, logits in zip(NAMES, flattened()[0].split(LENGTHS, 1), mixed):
            alone = {other: model(tokens, adapter_names=[other]).logits for other in NAMES}
            torch.testing.assert_close(logits, alone[name], rtol=1e-9, atol=1e-12)
            for other in {*NAMES} - {name}:
                assert (alone[other] - alone[name]).abs().max() > 1e-3, "the adapters are too alike"


@pytest.mark.skipif(not KEPT_APART, reason="transformers 4.53 keeps samples apart")
def test_a_cache_that_lets_them_meet_is_refused(installed_shim):
    model = make_llama("sdpa")
    model.config.use_cache = True  # positions that begin anew are not looked for beside a cache
    with pytest.raises(shim.RefusedError, match="mixes samples"):
        run_flattened(model)


@pytest.mark.skipif(not KEPT_APART, reason="transformers 4.53 keeps samples apart")
def test_each_adapter_is_trained_on_its_own_samples(installed_shim):
    model = make_llama("sdpa").train()
    weights = {name: weight for name, weight in model.named_parameters() if "lora_" in name}
    for weight in weights.values():
        weight.requires_grad_(True)
    weigh = torch.randn(1, sum(LENGTHS), 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    (run_flattened(model).logits * weigh).sum().backward()
    mixed = {name: weight.grad for name, weight in weights.items()}
    model.zero_grad()
    for name, tokens, part in zip(NAMES, flattened()[0].split(LENGTHS, 1), weigh.split(LENGTHS, 1)):
        if name != "__base__":
            (model(tokens, adapter_names=[name]).logits * part).sum().backward()
    for name, weight in weights.items():
        assert weight.grad.abs().max() > 1e-6
        torch.testing.assert_close(mixed[name], weight.grad, rtol=1e-9, atol=1e-12)
