"""Small modules that do all sorts of things to their batch, and two adapters on their linear layer."""

import peft
import pytest
import torch
from torch import nn

import shim


class Toy(nn.Module):
    """A linear layer in the middle of `body`, a function of the toy, its linear layer and its inputs."""

    def __init__(self, body, width):
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.other = nn.Linear(width, width)
        self.body = body

    def forward(self, *args, **kwargs):
        return self.body(self, *args, **kwargs)


def make_adapted(body, width=4, targets=("linear",)):
    """Return a toy with the given body, and adapters `ann` and `ben` on its linear layer, or on other targets."""
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, target_modules=list(targets), init_lora_weights=False)
    model = peft.get_peft_model(Toy(body, width).double(), config, adapter_name="ann")
    model.add_adapter("ben", config)
    return model.double().eval()


def run_alone(model, name, *args, **kwargs):
    """Run a model on inputs under one adapter, by set_adapter and without names."""
    with torch.no_grad():
        if name == "__base__":
            with model.disable_adapter():
                return model(*args, **kwargs)
        model.set_adapter(name)
        return model(*args, **kwargs)


@pytest.fixture
def adapted():
    """`make_adapted`, with the shim in place."""
    shim.install(fallback="split")
    yield make_adapted
    shim.uninstall()


@pytest.fixture
def alone():
    """`run_alone`."""
    return run_alone
