"""A saved module that the active adapter lacks has the original's attributes, however it came to that."""

import peft
import pytest
import torch
from peft.utils.other import ModulesToSaveWrapper
from torch import nn

has_attributes = pytest.mark.skipif(
    not any("__getattr__" in vars(cls) for cls in ModulesToSaveWrapper.__mro__ if cls.__module__.startswith("peft")),
    reason="wrappers have the attributes of what they wrap since peft 0.14",
)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.head = nn.Linear(2, 2), nn.Linear(2, 3)
        self.head.of_the_base = "the original's"

    def forward(self, x):
        return self.head(self.linear(x))


def config(saved=None):
    return peft.LoraConfig(target_modules=["linear"], modules_to_save=saved)


def saver_loaded_second():
    model = peft.get_peft_model(Net(), config(), adapter_name="plain")
    model.add_adapter("saver", config(["head"]))
    return model


def saver_loaded_first():
    model = peft.get_peft_model(Net(), config(["head"]), adapter_name="saver")
    model.add_adapter("plain", config())
    model.set_adapter("plain")
    return model


@has_attributes
@pytest.mark.parametrize("make", [saver_loaded_second, saver_loaded_first])
def test_attributes_are_the_originals_while_the_active_adapter_saves_nothing(make, installed_shim):
    model = make()
    head = model.get_base_model().head
    assert isinstance(head, ModulesToSaveWrapper)
    assert (head.in_features, head.out_features, head.of_the_base) == (2, 3, "the original's")
    assert head.weight is head.original_module.weight
    with pytest.raises(AttributeError, match="no attribute 'nobodys'"):
        _ = head.nobodys
    model.add_adapter("third", config(["head"]))
    head.modules_to_save["saver"].of_the_base = "the saver's"
    model.set_adapter("saver")
    assert head.of_the_base == "the saver's"
    assert head.weight is head.modules_to_save["saver"].weight
    with model.disable_adapter():
        assert head.of_the_base == "the original's"


@has_attributes
def test_an_attribute_that_the_active_adapters_module_lacks_is_nobodys(installed_shim):
    model = saver_loaded_first()
    head = model.get_base_model().head
    del head.modules_to_save["saver"].of_the_base
    model.set_adapter("saver")
    with pytest.raises(AttributeError, match="of_the_base"):
        _ = head.of_the_base


@has_attributes
def test_a_forward_that_asks_a_wrapper_for_its_width_is_served(installed_shim):
    """A forward that asks the wrapper for its width, as heads are asked for theirs."""

    class Asking(Net):
        def forward(self, x):
            return self.head(self.linear(x)) * self.head.out_features

    model = peft.get_peft_model(Asking(), config(["head"]), adapter_name="saver")
    model.add_adapter("plain", config())
    model = model.double().eval()
    model.get_base_model().head.modules_to_save["saver"].weight.data.fill_(2.0)
    x = torch.ones(3, 2, dtype=torch.float64)
    with torch.no_grad():
        mixed = model(x, adapter_names=["saver", "plain", "__base__"])
        for row, name in enumerate(["saver", "plain"]):
            model.set_adapter(name)
            torch.testing.assert_close(mixed[row], model(x)[row])
    assert (mixed[0] - mixed[1]).abs().max() > 0.1


@has_attributes
@pytest.mark.parametrize("active", ["saver", "plain"])
def test_a_forward_reads_the_value_of_each_rows_own_module(active, installed_shim):
    """Python has read the active adapter's value by the time a trace sees anything: no row may have another's."""

    class Scaled(Net):
        def __init__(self):
            super().__init__()
            self.head.gain = 1.0

        def forward(self, x):
            return self.head(self.linear(x)) * self.head.gain

    model = peft.get_peft_model(Scaled(), config(["head"]), adapter_name="saver")
    model.add_adapter("plain", config())
    model = model.double().eval()
    model.get_base_model().head.modules_to_save["saver"].gain = 5.0
    x = torch.linspace(1, 2, 6, dtype=torch.float64).view(3, 2)
    names = ["saver", "plain", "__base__"]
    model.set_adapter(active)
    with torch.no_grad():
        for _ in range(3):
            mixed = model(x, adapter_names=names)
            original = model.get_base_model().head.original_module
            expected = original(model.get_base_model().linear(x))  # all heads are equal, and so is each fresh adapter
            for row, gain in enumerate([5.0, 1.0, 1.0]):
                torch.testing.assert_close(mixed[row], gain * expected[row])
