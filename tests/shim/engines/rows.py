"""A tiny model under three adapters, and its rows alone: what a mixed call on any engine must give."""

import copy

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

ADAPTERS = {"fr": 2, "de": 4, "it": 3}  # and their ranks
TARGETS = ("q_proj", "v_proj", "down_proj")
NAMES = ["fr", "de", "__base__", "it", "de"]


def base_llama():
    """Return a causal model of two layers, whose weights are in the default dtype."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
            use_cache=False,
        )
    ).eval()  # fmt: skip


def adapted(base, targets=TARGETS, **options):
    """Return `base` under the adapters, whose weights are random and decided by their names and places."""
    model = None
    for adapter, rank in ADAPTERS.items():
        options = {"task_type": "CAUSAL_LM", **options}
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(targets), **options)
        if model is None:
            model = get_peft_model(base, config, adapter_name=adapter)
        else:
            model.add_adapter(adapter, config)
    torch.manual_seed(1)
    for path, parameter in model.named_parameters():
        if "lora_" in path:
            parameter.data = torch.randn_like(parameter) / 4
        parameter.requires_grad_("lora_" in path)
    return model.to(torch.get_default_dtype()).eval()


def llama(targets=TARGETS, **options):
    """Return a tiny causal model under the adapters."""
    return adapted(base_llama(), targets, **options)


def sentences(count, length=6, seed=0):
    """Return the inputs of `count` samples."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 32, (count, length), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def alone(model, inputs, names):
    """Return each row's logits, run alone under its adapter on a copy, without names."""
    model = copy.deepcopy(model).eval()
    rows = []
    with torch.no_grad():
        for row, name in enumerate(names):
            one = {key: value[row : row + 1] for key, value in inputs.items()}
            if name == "__base__":
                with model.disable_adapter():
                    rows.append(model(**one).logits)
            else:
                model.set_adapter(name)
                rows.append(model(**one).logits)
    return torch.cat(rows)


def distance(one, other):
    """Return the largest difference, relative to the largest value of `other`."""
    return ((one - other).abs().max() / other.abs().max()).item()


def expect_rows(logits, model, inputs, names):
    """Check each row of a mixed call against that row alone on `model`, and that other adapters give something else."""
    expected = alone(model, inputs, names)
    error = distance(logits, expected)
    assert error <= 1e-9, f"the rows are off by {error:.2g}"
    for name in {*ADAPTERS, "__base__"}:
        other = alone(model, inputs, [name] * len(names))
        for row, own in enumerate(names):
            assert name == own or distance(other[row], expected[row]) > 1e-2, "the adapters are alike"


def expect_rows_under_autocast(call, model, inputs, names):
    """Check each row of `call()` under autocast: as near to float64 as that row alone, and far from other adapters'.

    `model` has float32 weights, on one process.
    """
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed, own = call(), alone(model, inputs, names)
    assert mixed.dtype is own.dtype
    exact = copy.deepcopy(model).double()
    truth = alone(exact, inputs, names)
    error, rounding = distance(mixed.double(), truth), distance(own.double(), truth)
    assert rounding > torch.finfo(torch.bfloat16).eps / 8, "nothing was rounded"
    assert error <= 2 * rounding, f"the rows are off by {error:.2g}, alone by {rounding:.2g}"
    for name in {*ADAPTERS, "__base__"}:
        other = alone(exact, inputs, [name] * len(names))
        for row, own_name in enumerate(names):
            assert name == own_name or distance(other[row], truth[row]) > 4 * rounding, "the adapters are alike"
