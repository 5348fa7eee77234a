"""A selection belongs to one call on one model, and nothing is left of it (contract S1-S3, S7)."""

import asyncio
import copy
import pickle
import sys
import threading

import peft
import pytest
import torch
from torch import nn

import shim
from shim.batch import resolve
from shim.modules import adapter_layers
from shim.selection import (
    ANSWERS,
    BASE,
    Selection,
    is_selected,
    layer_property,
    model_active_adapter,
    select,
)


class Upstream:
    """A layer as PEFT's are: three properties over stored state, one of them with a setter."""

    def __init__(self):
        self.stored = "stored"

    @property
    def active_adapter(self):
        """The active adapter."""
        return self.stored

    @active_adapter.setter
    def active_adapter(self, value):
        self.stored = value

    @property
    def active_adapters(self):
        return [self.stored]

    @property
    def disable_adapters(self):
        return "as stored"


class Layer(Upstream):
    """The same, with properties that ask the call first."""

    for _name, _answer in ANSWERS.items():
        locals()[_name] = layer_property(vars(Upstream)[_name], _answer)


STORED = ("stored", ["stored"], "as stored")


def answers(layer):
    return layer.active_adapter, layer.active_adapters, layer.disable_adapters


def choose(adapter, *layers, holds=True, model=None):
    return Selection(model, adapter, {id(layer): holds for layer in layers})


def test_without_a_selection_the_stored_answers_stay():
    assert answers(Layer()) == STORED
    assert not is_selected()


def test_a_layer_that_holds_the_adapter_answers_with_it():
    layer = Layer()
    with select(choose("ann", layer)):
        assert is_selected()
        assert answers(layer) == ("ann", ["ann"], False)
    assert answers(layer) == STORED
    assert not is_selected()


@pytest.mark.parametrize("adapter", ["ann", BASE])
def test_a_layer_that_holds_nothing_of_the_adapter_is_disabled(adapter):
    layer = Layer()
    with select(choose(adapter, layer, holds=False)):
        assert answers(layer) == ([], [], True)


def test_another_models_layer_keeps_its_own_state():
    layer, another = Layer(), Layer()
    another.stored = "theirs"
    with select(choose("ann", layer)):
        assert answers(another) == ("theirs", ["theirs"], "as stored")


def test_the_answers_are_fresh_lists():
    layer = Layer()
    with select(choose("ann", layer)):
        layer.active_adapters.append("ben")
        assert layer.active_adapters == ["ann"]


def test_setting_during_a_selection_sets_what_is_stored():
    layer = Layer()
    with select(choose("ann", layer)):
        layer.active_adapter = "ben"
        assert layer.active_adapter == "ann"
    assert layer.active_adapter == "ben"


def test_a_layer_property_keeps_setter_deleter_and_documentation():
    for name in ANSWERS:
        original, ours = vars(Upstream)[name], vars(Layer)[name]
        assert (ours.fset, ours.fdel, ours.__doc__) == (original.fset, original.fdel, original.__doc__)


def test_a_nested_selection_restores_the_outer_one():
    layer = Layer()
    with select(choose("ann", layer)):
        with select(choose("ben", layer)):
            assert layer.active_adapter == "ben"
            with select(None):
                assert not is_selected()
                assert answers(layer) == STORED
            assert layer.active_adapter == "ben"
        assert layer.active_adapter == "ann"
    assert answers(layer) == STORED


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_a_selection_is_gone_after_an_exception(error):
    layer = Layer()
    with pytest.raises(error):
        with select(choose("ann", layer)):
            raise error
    assert not is_selected()
    assert answers(layer) == STORED


def test_threads_with_different_selections_see_their_own():
    layer, barrier, seen = Layer(), threading.Barrier(4), {}

    def run(name):
        with select(choose(name, layer)):
            barrier.wait(timeout=10)
            found = {layer.active_adapter for _ in range(500)}
            barrier.wait(timeout=10)
            seen[name] = found

    threads = [threading.Thread(target=run, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert seen == {name: {name} for name in "abcd"}
    assert answers(layer) == STORED


def test_a_selection_does_not_reach_another_thread():
    layer, seen = Layer(), []
    with select(choose("ann", layer)):
        thread = threading.Thread(target=lambda: seen.append(layer.active_adapter))
        thread.start()
        thread.join(timeout=10)
    # Free-threaded python 3.14 hands a new thread the context of the one that starts it.
    inherits = getattr(sys.flags, "thread_inherit_context", 0)
    assert seen == ["ann" if inherits else "stored"]


def test_asyncio_tasks_with_different_selections_see_their_own():
    layer = Layer()

    async def run(name):
        found = set()
        with select(choose(name, layer)):
            for _ in range(20):
                await asyncio.sleep(0)
                found.add(layer.active_adapter)
        return found

    async def plain():
        found = set()
        for _ in range(20):
            await asyncio.sleep(0)
            found.add(layer.active_adapter)
        return found

    async def together():
        return await asyncio.gather(run("ann"), plain(), run("ben"))

    assert asyncio.run(together()) == [{"ann"}, {"stored"}, {"ben"}]


class Model:
    """A model whose `active_adapter` is the property, as PeftModel's is while the shim is installed."""

    active_adapter = model_active_adapter()


def test_the_models_active_adapter_is_stored_where_peft_puts_it():
    model = Model()
    model.active_adapter = "ann"
    assert model.active_adapter == "ann"
    assert vars(model) == {"active_adapter": "ann"}


def test_the_models_active_adapter_is_an_attribute_error_when_unset():
    with pytest.raises(AttributeError, match="active_adapter"):
        _ = Model().active_adapter
    assert not hasattr(Model(), "active_adapter")


def test_the_class_gives_the_descriptor_itself():
    assert Model.active_adapter is vars(Model)["active_adapter"]


def test_the_models_active_adapter_is_the_selected_one_during_a_call():
    model, another = Model(), Model()
    model.active_adapter = another.active_adapter = "ann"
    with select(choose("ben", model=model)):
        assert model.active_adapter == "ben"
        assert another.active_adapter == "ann"
    assert model.active_adapter == "ann"


def test_base_rows_leave_the_models_active_adapter():
    model = Model()
    model.active_adapter = "ann"
    with select(choose(BASE, model=model)):
        assert model.active_adapter == "ann"


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 2)

    def forward(self, x):
        return self.second(self.first(x))


def peft_model():
    torch.manual_seed(0)
    ann = peft.LoraConfig(target_modules=["first"], r=1, init_lora_weights=False)
    ben = peft.LoraConfig(target_modules=["first", "second"], r=1, init_lora_weights=False)
    model = peft.get_peft_model(Net(), ann, adapter_name="ann")
    model.add_adapter("ben", ben)
    return model.eval()


X = torch.linspace(-1, 1, 8).reshape(2, 4)


def test_every_layer_of_a_peft_model_answers_from_the_selection(installed_shim):
    model = peft_model()
    layers = dict(adapter_layers(model))
    assert len(layers) == 2
    batch = resolve(model, ["ben", "ann"])
    for adapter, held in (("ann", {"first"}), ("ben", {"first", "second"}), (BASE, set())):
        with select(batch.selection(adapter)):
            for name, layer in layers.items():
                holds = name.split(".")[-1] in held
                assert layer.active_adapters == ([adapter] if holds else [])
                assert layer.disable_adapters is not holds


def test_running_under_a_selection_is_running_under_set_adapter(installed_shim):
    model = peft_model()
    batch = resolve(model, ["ann", "ben"])
    selected = {}
    for name in ("ben", "ann", BASE):
        with select(batch.selection(name)):
            selected[name] = model.get_base_model()(X)
    for name in ("ann", "ben"):
        model.set_adapter(name)
        assert torch.equal(model(X), selected[name])
    with model.disable_adapter():
        assert torch.equal(model(X), selected[BASE])
    assert not torch.allclose(selected["ann"], selected["ben"])


def test_an_installed_peft_model_gives_and_takes_its_active_adapter(installed_shim):
    model = peft_model()
    assert (model.active_adapter, vars(model)["active_adapter"]) == ("ann", "ann")
    model.set_adapter("ben")
    assert (model.active_adapter, vars(model)["active_adapter"]) == ("ben", "ben")
    model.active_adapter = "ann"
    assert vars(model)["active_adapter"] == "ann"


def test_a_plain_call_on_the_model_inside_a_selection_is_a_call_of_its_own(installed_shim):
    model = peft_model()
    expected = model(X)
    with select(resolve(model, ["ben"]).selection("ben")):
        assert torch.equal(model(X), expected)
        assert not torch.allclose(model.get_base_model()(X), expected)


def test_a_peft_model_whose_active_adapter_is_unset_answers_as_upstream():
    model = peft_model()
    del vars(model)["active_adapter"]
    upstream = model.active_adapter  # PeftModel.__getattr__ asks the base model
    shim.install()
    try:
        assert model.active_adapter == upstream
    finally:
        shim.uninstall()


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_peft_model_is_cloned_with_its_stored_adapter_even_during_a_call(installed_shim, clone):
    model = peft_model()
    with select(resolve(model, ["ben"]).selection("ben")):
        cloned = clone(model)
    assert vars(cloned)["active_adapter"] == cloned.active_adapter == "ann"
    assert torch.equal(cloned(X), model(X))
    assert torch.equal(cloned(X, adapter_names=["ben", "ben"]), model(X, adapter_names=["ben", "ben"]))


def test_a_model_pickled_while_installed_is_read_without_the_shim():
    shim.install()
    try:
        model = peft_model()
        model.set_adapter("ben")
        pickled, expected = pickle.dumps(model), model(X)
    finally:
        shim.uninstall()
    read = pickle.loads(pickled)
    assert read.active_adapter == "ben"
    assert torch.equal(read(X), expected)


def test_a_model_built_before_installing_answers_from_the_selection():
    model = peft_model()
    shim.install()
    try:
        with select(resolve(model, ["ben"]).selection("ben")):
            assert model.active_adapter == "ben"
    finally:
        shim.uninstall()
    assert model.active_adapter == "ann"
