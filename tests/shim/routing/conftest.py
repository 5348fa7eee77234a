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
        self.body = body

    def forward(self, *args, **kwargs):
        return self.body(self, *args, **kwargs)


@pytest.fixture
def adapted():
    """A function that puts adapters `ann` and `ben` on a toy with the given body."""
    shim.install()
    torch.manual_seed(0)

    def make(body, width=4):
        config = peft.LoraConfig(r=2, target_modules=["linear"], init_lora_weights=False)
        model = peft.get_peft_model(Toy(body, width).double(), config, adapter_name="ann")
        model.add_adapter("ben", config)
        return model.double().eval()

    yield make
    shim.uninstall()


@pytest.fixture
def alone():
    """A function that runs a model on inputs under one adapter, by set_adapter and without names."""

    def run(model, name, *args, **kwargs):
        with torch.no_grad():
            if name == "__base__":
                with model.disable_adapter():
                    return model(*args, **kwargs)
            model.set_adapter(name)
            return model(*args, **kwargs)

    return run
