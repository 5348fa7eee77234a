"""Adapters that come and go while others are merged or disabled: what `tests/shim/state` found, as short as it gets."""

import peft
import pytest
import torch
from torch import nn


class Chain(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.head(self.second(self.first(x)))


@pytest.fixture(autouse=True)
def _shim(installed_shim):
    torch.manual_seed(0)
    return installed_shim


X = torch.ones(2, 3)


def config(*targets, saves=None):
    return peft.LoraConfig(r=1, target_modules=list(targets), modules_to_save=saves, init_lora_weights=False)


def changed(one, other):
    return (one - other).abs().max().item()


@pytest.mark.parametrize("saves", [None, ["head"]])
def test_a_disabled_model_stays_disabled_in_the_layers_of_a_new_adapter(saves):
    model = peft.get_peft_model(Chain(), config("first"), adapter_name="ann").eval()
    model.disable_adapter_layers()
    base = model(X)
    model.add_adapter("ben", config("second", saves=saves))
    for name, parameter in model.named_parameters():
        if ".ben." in name:
            parameter.data.fill_(2.0)
    model.set_adapter("ben")
    assert changed(model(X), base) == 0
    model.enable_adapter_layers()
    assert changed(model(X), base) > 1e-2  # and the adapter would have been seen


def test_an_enabled_model_stays_enabled_in_the_layers_of_a_new_adapter():
    model = peft.get_peft_model(Chain(), config("first"), adapter_name="ann").eval()
    model.add_adapter("ben", config("second"))
    model.set_adapter("ben")
    with model.disable_adapter():
        base = model(X)
    assert changed(model(X), base) > 1e-2


def test_a_merged_adapter_is_not_deleted():
    model = peft.get_peft_model(Chain(), config("first"), adapter_name="ann").eval()
    model.add_adapter("ben", config("first"))
    with model.disable_adapter():
        base = model(X)
    model.merge_adapter()
    with pytest.raises(ValueError, match="ann"):
        model.delete_adapter("ann")
    assert set(model.peft_config) == {"ann", "ben"}
    model.delete_adapter("ben")
    model.unmerge_adapter()
    with model.disable_adapter():
        assert changed(model(X), base) < 1e-6
    assert changed(model(X), base) > 1e-2


def several(names):
    model = peft.get_peft_model(Chain(), config("first", "second"), adapter_name="ann").eval()
    model.add_adapter("ben", config("first"))
    model.add_adapter("cat", config("first", "second"))
    model.base_model.set_adapter(names)
    return model


def active(model):
    layers = [module for module in model.modules() if hasattr(module, "lora_A")]
    assert all(list(layer.active_adapters) == list(model.base_model.active_adapters) for layer in layers)
    return list(model.base_model.active_adapters)


@pytest.mark.parametrize(
    ("names", "deleted", "left"),
    [
        (["ann", "ben", "cat"], "ann", ["ben", "cat"]),
        (["ben", "cat"], "ann", ["ben", "cat"]),
        (["ben", "cat"], "ben", ["cat"]),
        (["cat"], "cat", ["ann"]),
    ],
)
def test_deleting_an_adapter_leaves_the_other_active_ones(names, deleted, left):
    model = several(names)
    model.delete_adapter(deleted)
    assert active(model) == left
    assert model.active_adapter in left


def test_adding_an_adapter_leaves_several_active():
    model = several(["ben", "cat"])
    model.add_adapter("dan", config("head"))
    assert active(model) == ["ben", "cat"]
