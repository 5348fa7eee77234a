"""modules_to_save of any type, different for each adapter, in any order (contract H1-H3).

The reference is a model that never held another adapter: the same base weights, that adapter's LoRA weights,
and its own saved modules put straight into the base.
"""

import copy
import itertools
from collections import OrderedDict

import peft
import pytest
import torch
from torch import nn

import shim


class Head(nn.Module):
    """A head that is no Linear, as RoBERTa's and ELECTRA's are: refused by PEFT."""

    def __init__(self, width, classes):
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, classes)

    def forward(self, features, **kwargs):
        return self.out_proj(torch.tanh(self.dense(features)))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.extra = nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)
        self.pooler = nn.Sequential(nn.Linear(6, 6), nn.Tanh())
        self.classifier = Head(6, 3)

    def forward(self, x):
        return self.classifier(self.pooler(self.norm(self.extra(self.linear(x)))))


# Names of three letters: below 0.15, PEFT's saving takes a name such as "b" out of "bias" too.
ALL = ("ann", "ben", "cat", "dan")
SAVED = {"ann": ["classifier"], "ben": ["pooler", "norm"], "cat": None, "dan": ["norm", "classifier"]}
TARGETS = {"ann": ["linear"], "ben": ["extra"], "cat": ["linear", "extra"], "dan": ["extra"]}
ORDERS = list(itertools.permutations(ALL[:3])) + [ALL[::-1]]


@pytest.fixture(autouse=True)
def _shim(installed_shim):
    torch.manual_seed(0)
    return installed_shim


def config(name):
    return peft.LoraConfig(r=2, target_modules=TARGETS[name], modules_to_save=SAVED[name], init_lora_weights=False)


def is_own(parameter_name, adapter):
    return f".{adapter}." in parameter_name


def build(order):
    """A model with the adapters loaded in `order`, each with weights that depend on its name alone."""
    torch.manual_seed(1)
    base = Encoder().double()
    reference = copy.deepcopy(base)
    model = peft.get_peft_model(base, config(order[0]), adapter_name=order[0])
    for name in order[1:]:
        model.add_adapter(name, config(name))
    model = model.double().eval()
    for name in order:
        own = {k: p for k, p in model.named_parameters() if is_own(k, name) and saves(name, k)}
        generator = torch.Generator().manual_seed(ord(name[0]))
        for _, parameter in sorted(own.items()):
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model, reference


def saves(adapter, parameter_name):
    """Whether the parameter is one that `adapter` trains: its LoRA weights, or a module that it names."""
    if "lora_" in parameter_name:
        return True
    return any(f".{module}." in parameter_name for module in SAVED[adapter] or [])


def alone(model, reference, adapter, x):
    """What the adapter computes, by the definition: its own weights in a copy of the base model."""
    expected = copy.deepcopy(reference)
    own = {k: p.data for k, p in model.named_parameters() if is_own(k, adapter)}
    weights = {tuple(k.split(".")[-4:-2]): p for k, p in own.items() if "lora_" in k}
    for key, value in own.items():
        if "modules_to_save" in key and saves(adapter, key):
            path = key.replace("base_model.model.", "").replace(f"modules_to_save.{adapter}.", "")
            expected.get_parameter(path).data = value
    for target in TARGETS.get(adapter, []):
        scaling = peft.LoraConfig().lora_alpha / 2
        delta = scaling * weights[target, "lora_B"] @ weights[target, "lora_A"]
        getattr(expected, target).weight.data += delta
    return expected(x)


def assert_same(observed, expected):
    assert torch.allclose(observed, expected, rtol=1e-9, atol=1e-12), (observed - expected).abs().max()


X = torch.linspace(-2, 2, 24, dtype=torch.float64).reshape(4, 6).cos()


def assert_each_is_right(model, reference, adapters, x=X):
    outputs = {}
    for name in adapters:
        model.set_adapter(name)
        outputs[name] = model(x)
        assert_same(outputs[name], alone(model, reference, name, x))
    for left, right in itertools.combinations(outputs.values(), 2):
        assert (left - right).abs().max() > 1e-3  # power: the adapters are far apart


@pytest.mark.parametrize("order", ORDERS)
def test_each_adapter_is_right_after_switching_in_any_order(order):
    model, reference = build(order)
    assert_each_is_right(model, reference, [*order, *reversed(order)])


@pytest.mark.parametrize("order", ORDERS)
def test_loading_an_adapter_leaves_the_active_one_right(order):
    model, reference = build(order)
    assert_same(model(X), alone(model, reference, order[0], X))


@pytest.mark.parametrize("order", ORDERS)
def test_each_row_goes_through_its_own_saved_modules(order):
    model, reference = build(order)
    names = [order[0], "__base__", order[1], order[2]]
    mixed = model(X, adapter_names=names)
    for row, name in enumerate(names):
        assert_same(mixed[row], alone(model, reference, name, X)[row])


@pytest.mark.parametrize("order", ORDERS)
def test_the_base_model_is_right_while_adapters_are_disabled(order):
    model, reference = build(order)
    for name in order:
        model.set_adapter(name)
        with model.disable_adapter():
            assert_same(model(X), reference(X))
        assert_same(model(X), alone(model, reference, name, X))


@pytest.mark.parametrize("deleted", ["ann", "ben", "dan"])
@pytest.mark.parametrize("active", ALL)
def test_deleting_an_adapter_leaves_the_others_right(deleted, active):
    model, reference = build(ALL)
    model.set_adapter(active)
    model.delete_adapter(deleted)
    left = [name for name in ALL if name != deleted]
    assert not [name for name, _ in model.named_parameters() if is_own(name, deleted)]
    assert_each_is_right(model, reference, left)
    with pytest.raises(shim.UnknownAdapterError, match=deleted):
        model(X, adapter_names=[deleted, *left])
    mixed = model(X, adapter_names=[*left, "__base__"])
    for row, name in enumerate([*left, "__base__"]):
        assert_same(mixed[row], alone(model, reference, name, X)[row])


def test_a_deleted_active_adapter_gives_way_to_one_that_is_whole():
    model, reference = build(ALL[:2])
    model.set_adapter("ann")
    model.delete_adapter("ann")
    active = model.active_adapter if isinstance(model.active_adapter, str) else model.active_adapter[0]
    assert active == "ben"
    assert_same(model(X), alone(model, reference, "ben", X))


@pytest.mark.parametrize("active", ALL[:3])
def test_unloading_gives_the_base_layers_and_the_active_adapters_modules(active):
    model, _ = build(ALL[:3])
    model.set_adapter(active)
    expected = copy.deepcopy(model)
    for module in expected.modules():
        if hasattr(module, "lora_B"):
            for weights in module.lora_B.values():
                weights.weight.data.zero_()
    want = expected(X)
    plain = model.unload()
    assert not [name for name, _ in plain.named_parameters() if "lora_" in name or "modules_to_save" in name]
    assert_same(plain(X), want)


def test_saved_and_loaded_adapters_give_the_same_outputs(tmp_path):
    model, reference = build(ALL[:3])
    model.save_pretrained(str(tmp_path))
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(reference), str(tmp_path / "cat"), adapter_name="cat")
    for name in ("ben", "ann"):
        loaded.load_adapter(str(tmp_path / name), name)
    loaded = loaded.double().eval()
    for name in (*ALL[:3], "ann"):
        loaded.set_adapter(name)
        assert_same(loaded(X), alone(model, reference, name, X))


def test_no_other_adapter_is_trainable():
    model, _ = build(ALL[:3])
    for name in ALL[:3]:
        model.set_adapter(name)
        trained = {k for k, p in model.named_parameters() if p.requires_grad}
        assert [k for k in trained if is_own(k, name)]
        assert not [k for k in trained for other in ALL if other != name and is_own(k, other)]
        assert not [k for k in trained if is_own(k, name) and not saves(name, k)]


@pytest.mark.parametrize("targets", [["0"], ["0", "first"]])
@pytest.mark.parametrize("active", ["ann", "ben"])
@pytest.mark.parametrize("way", ["one pass", "split"])
def test_an_adapter_adapts_a_layer_of_a_module_that_another_saves(way, active, targets, request):
    """Its rows go through the original module, and there through its own weights; and no others through these.

    PEFT adapts the layer in the other's copy of the module, too.
    """
    if way == "split":
        request.getfixturevalue("split_only")
    torch.manual_seed(1)
    base = nn.Sequential(OrderedDict(first=nn.Linear(6, 6), pooler=nn.Sequential(nn.Linear(6, 6), nn.Tanh()))).double()
    own = copy.deepcopy(base)
    saving = peft.LoraConfig(r=2, target_modules=["first"], modules_to_save=["pooler"], init_lora_weights=False)
    model = peft.get_peft_model(base, saving, adapter_name="ann")
    model.add_adapter("ben", peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    model = model.double().eval()
    for name, weight in model.named_parameters():
        weight.data += 0.3 * torch.randn_like(weight) if ".ann." in name or ".ben." in name else 0.0
    model.set_adapter("ann")
    saved = model(X)[0].detach()
    model.set_adapter(active)
    assert shim.explain(model, {"input": X}, ["ann", "ben", "__base__", "ben"]).route == "one pass"
    with torch.no_grad():
        mixed = model(X, adapter_names=["ann", "ben", "__base__", "ben"])
        assert_same(mixed[0], saved)
        assert_same(mixed[2], own(X)[2])
        layers = {"first": own.first, "0": own.pooler[0]}
        for key, target in layers.items():
            if key in targets:
                place = "first" if key == "first" else "pooler.original_module.0"
                layer = model.base_model.model.get_submodule(place)
                delta = layer.lora_B["ben"].weight @ layer.lora_A["ben"].weight
                target.weight.data += layer.scaling["ben"] * delta
                assert delta.abs().max() > 0.01
        assert_same(mixed[[1, 3]], own(X)[[1, 3]])
