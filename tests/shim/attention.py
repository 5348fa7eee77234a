"""A model around torch's multi-head attention with PEFT's adapters on it, and each row alone by PEFT's own layer."""

import copy

import peft
import pytest
import torch
from peft.tuners.lora import layer as lora_layers
from torch import nn

NAMES = ["ann", "ben", "__base__", "ann"]
LENGTH, WIDTH, HEADS = 5, 8, 2

needs_attention = pytest.mark.skipif(
    not hasattr(lora_layers, "MultiheadAttention"), reason="lora.MultiheadAttention came with peft 0.15 (peft#1324)"
)


class Attending(nn.Module):
    """An attention, called by `body`, a function of the module and its inputs."""

    def __init__(self, body, **options):
        super().__init__()
        self.before = nn.Linear(WIDTH, WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, **options)
        self.probe = nn.Parameter(torch.randn(1, 2, WIDTH))
        self.body = body

    def forward(self, x, **inputs):
        return self.body(self, x, **inputs)


def attending(body, targets=("before", "attention"), **options):
    """Return a model under the adapters `ann` and `ben`, in float64; `options` are the attention's."""
    torch.manual_seed(0)
    base = Attending(body, **options).double()
    for parameter in base.parameters():  # biases, which torch starts at zero
        nn.init.normal_(parameter, std=0.5)
    config = peft.LoraConfig(r=2, lora_alpha=3, target_modules=list(targets), init_lora_weights=False)
    model = peft.get_peft_model(base, config, adapter_name="ann")
    model.add_adapter("ben", config)
    return model.double().eval()


def samples(count, seed=1):
    """Return inputs of `count` samples."""
    return torch.randn(count, LENGTH, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def alone(model, name, inputs):
    """Return what PEFT's layer makes of inputs under one adapter, on a copy, for it does not unmerge to the bit."""
    model = copy.deepcopy(model)
    if name == "__base__":
        with model.disable_adapter():
            return model(**inputs)
    model.set_adapter(name)
    return model(**inputs)


def rows_alone(model, names, inputs):
    """Return for every row its outputs alone, under its adapter and then under another one."""
    rows = []
    for index, name in enumerate(names):
        row = {key: value[index : index + 1] for key, value in inputs.items()}
        other = "ben" if name != "ben" else "ann"
        rows.append([tensors(alone(model, one, row)) for one in (name, other)])
    return rows


def tensors(output):
    """Return the tensors of an output."""
    return [value for value in (output if isinstance(output, tuple) else (output,)) if value is not None]


def check_rows(mixed, rows):
    """Check that every row of every output is the row's own, and far from another adapter's."""
    for index, (own, other) in enumerate(rows):
        for place, value in enumerate(tensors(mixed)):
            torch.testing.assert_close(value[index : index + 1], own[place], rtol=1e-12, atol=1e-12)
            assert (own[place] - other[place]).abs().max() > 1e-3
