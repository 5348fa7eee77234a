"""A LoRA layer under four adapters, and each row of its output by the layer's own forward."""

import peft
import torch
from torch import nn

from shim.kernels.tables import RowTable

NAMES = ["ann", "ben", "cat", "dan"]
WIDTH, OUT = 6, 5


class Net(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


def lora_layer(inner, dtype=torch.float64, ranks=(2, 2, 3, 2), scalings=(1.0, 2.0, 0.5, 1.0), **settings):
    torch.manual_seed(0)
    model = None
    for name, rank, scaling in zip(NAMES, ranks, scalings):
        config = peft.LoraConfig(
            r=rank, lora_alpha=scaling * rank, target_modules=["inner"], init_lora_weights=False, **settings
        )
        if model is None:
            model = peft.get_peft_model(Net(inner), config, adapter_name=name)
        else:
            model.add_adapter(name, config)
    return model.eval().to(dtype).base_model.model.inner


def table_of(names):
    rows = {}
    for row, name in enumerate(names):
        if name != "__base__":
            rows.setdefault(name, []).append(row)
    return RowTable(rows, len(names), "cpu")


def alone(layer, x, dim, names):
    """Each row by the layer's own forward."""
    rows = []
    for row, name in enumerate(names):
        layer.set_adapter(name if name != "__base__" else NAMES[0])
        layer.enable_adapters(name != "__base__")
        rows.append(layer(x).select(dim, row))
        layer.enable_adapters(True)
    return torch.stack(rows, dim)


def inputs(names, dim, tokens, dtype=torch.float64):
    torch.manual_seed(1)
    return torch.randn(len(names), tokens, WIDTH, dtype=dtype).movedim(0, dim)
