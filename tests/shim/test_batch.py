"""Names are checked against the model before anything runs, and each error says what to do (F1, F2, F4)."""

import dataclasses

import peft
import pytest
import torch
from torch import nn

import shim
import shim.graphs
from shim.batch import MixedBatch, holds, method_of, resolve
from shim.modules import adapter_layers, layer_kinds
from shim.selection import BASE


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 8)
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8)
        self.head = nn.Linear(8, 2)
        self.config = {"model_type": "custom"}

    def forward(self, tokens):
        return self.head(self.second(self.first(self.embedding(tokens))))


SETTINGS = {
    "ann": {"target_modules": ["embedding", "first"]},
    "ben": {"target_modules": ["first", "second"], "modules_to_save": ["head"]},
    "cat": {"target_modules": ["second"]},
}


def lora(name):
    return peft.LoraConfig(r=1, init_lora_weights=False, **SETTINGS[name])


@pytest.fixture
def model():
    """Adapters `ann`, `ben` and `cat` on different layers; `ann` is active."""
    torch.manual_seed(0)
    model = peft.get_peft_model(Net(), lora("ann"), adapter_name="ann")
    model.add_adapter("ben", lora("ben"))
    model.add_adapter("cat", lora("cat"))
    return model.eval()


def short(layers):
    return {name.split(".")[-1]: layer for name, layer in layers}


def assert_refused(model, names, error, *words):
    with pytest.raises(error) as caught:
        resolve(model, names)
    assert type(caught.value) is error
    assert isinstance(caught.value, (shim.MixedBatchError, shim.ShimError))
    for word in words:
        assert word in str(caught.value), (word, str(caught.value))


NOT_NAMES = {
    "string": ("ann", ["str", "'ann'", "list"]),
    "set": ({"ann"}, ["set", "list"]),
    "dictionary": ({"ann": 1}, ["dict", "list"]),
    "generator": ((name for name in ["ann"]), ["generator", "list"]),
    "number": (3, ["int 3", "list"]),
    "tensor": (torch.tensor([1]), ["Tensor", "list"]),
    "None inside": (["ann", None], ["None", "strings only", '"__base__"']),
    "integers": ([0, 1], ["0", "strings only"]),
    "list inside": ([["ann"], ["ben"]], ["['ann']", "strings only"]),
    "bytes inside": ([b"ann"], ["b'ann'", "strings only"]),
    "empty list": ([], ["empty", "one name per sample"]),
    "empty tuple": ((), ["empty", "one name per sample"]),
}


@pytest.mark.parametrize("wrong", sorted(NOT_NAMES))
def test_what_is_not_a_list_of_names_is_an_error(model, wrong):
    names, words = NOT_NAMES[wrong]
    assert_refused(model, names, shim.AdapterNamesError, "adapter_names", *words)


def test_a_generator_is_left_unread(model):
    names = iter(["ann", "ben"])
    assert_refused(model, names, shim.AdapterNamesError)
    assert list(names) == ["ann", "ben"]


def test_unknown_names_are_all_listed_and_so_are_those_loaded(model):
    assert_refused(
        model, ["ann", "dan", "__base__", "eve", "dan"], shim.UnknownAdapterError,
        "'dan', 'eve'", "'ann', 'ben', 'cat'", '"__base__"', "load_adapter",
    )  # fmt: skip


@pytest.mark.parametrize("name", ["Ann", "ann ", "", "base", "__BASE__"])
def test_a_name_is_known_only_as_it_was_given(model, name):
    assert_refused(model, [name], shim.UnknownAdapterError, repr(name))


def test_a_deleted_adapter_is_unknown(model, installed_shim):
    model.delete_adapter("ben")
    with pytest.raises(shim.UnknownAdapterError, match=r"'ben'.*'ann', 'cat'"):
        resolve(model, ["ann", "ben"])
    assert resolve(model, ["ann", "cat"]).names == ("ann", "cat")


def test_names_are_checked_before_the_models_state(model):
    model.train()
    assert_refused(model, "ann", shim.AdapterNamesError)
    assert_refused(model, ["dan"], shim.UnknownAdapterError)


def test_a_batch_tells_the_mode_of_its_model(model):
    assert not resolve(model.eval(), ["ann"]).is_training
    batch = resolve(model.train(), ["ann"])
    assert batch.is_training
    assert batch.in_evaluation == ()
    model.base_model.model.head.eval()
    assert resolve(model, ["ann"]).in_evaluation != ()


@pytest.mark.parametrize("names", [["ann", "cat"], ["cat"], ["__base__"]])
def test_merged_adapters_are_refused_whichever_rows_there_are(model, names, installed_shim):
    model.set_adapter("cat")
    model.merge_adapter()
    assert_refused(model, names, shim.RefusedError, "merged", "second", "['cat']", "unmerge_adapter()")
    model.unmerge_adapter()
    assert resolve(model, names).names == tuple(names)


@pytest.mark.parametrize("names", [["ann", "ben", "cat"], ["ann", "ann"], ["__base__", "__base__"]])
@pytest.mark.parametrize("how", ["merge_and_unload", "unload"])
def test_adapters_that_no_layer_holds_any_more_are_refused(model, how, names, installed_shim):
    base = getattr(model, how)()
    assert "ann" in model.peft_config
    assert_refused(model, names, shim.RefusedError, "'ann'", "no layer", how)
    with torch.no_grad():
        assert torch.equal(model(torch.arange(5)), base(torch.arange(5)))


@pytest.mark.skipif("trainable_token_indices" not in vars(peft.LoraConfig()), reason="peft 0.15")
def test_a_wrapper_holds_what_its_inner_layer_has_for_an_adapter(installed_shim):
    """huggingface/peft#2376: trainable tokens beside LoRA are held one layer further down."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(8, 4), nn.Linear(4, 4))
    tokens = peft.LoraConfig(target_modules=["1"], trainable_token_indices={"0": [1, 2]})
    adapted = peft.get_peft_model(net, tokens, adapter_name="ann")
    adapted.add_adapter("ben", tokens)
    adapted.add_adapter("cat", peft.LoraConfig(target_modules=["1"]))
    wrapper = adapted.base_model.model[0]
    assert [holds(wrapper, name) for name in ("ann", "ben", "cat", "__base__")] == [True, True, False, False]


def test_a_method_that_is_not_shown_to_choose_in_its_layers_is_refused(model):
    model.peft_config["cat"] = peft.AdaptionPromptConfig(peft_type="ADAPTION_PROMPT")
    assert_refused(model, ["cat", "ann"], shim.RefusedError, "'cat'", "ADAPTION_PROMPT", "has not been shown")


def test_an_unsupported_adapter_that_no_row_uses_does_not_matter(model):
    model.peft_config["cat"] = peft.AdaptionPromptConfig()
    assert resolve(model, ["ann", "ben"]).names == ("ann", "ben")


@pytest.mark.skipif(not hasattr(nn.Module, "compile"), reason="torch < 2.2 has no Module.compile")
@pytest.mark.parametrize("path", ["", "base_model.model.first", "base_model.model.head"])
def test_a_compiled_module_is_refused_by_name_where_dynamo_guards_too_little(model, path, monkeypatch):
    monkeypatch.setattr(shim.graphs, "can_serve", lambda: False)
    model.get_submodule(path).compile(backend="eager")
    words = [path or "the model", "torch.compile", "uncompiled"]
    assert_refused(model, ["ann"], shim.RefusedError, *words)


@pytest.mark.skipif(not hasattr(nn.Module, "compile"), reason="torch < 2.2 has no Module.compile")
def test_a_wrapped_compiled_module_is_refused_by_name_where_dynamo_guards_too_little(model, monkeypatch):
    monkeypatch.setattr(shim.graphs, "can_serve", lambda: False)
    inner = model.get_base_model()
    inner.head = torch.compile(inner.head, backend="eager")
    assert_refused(model, ["ann"], shim.RefusedError, "head", "torch.compile")


@pytest.mark.skipif(
    not hasattr(torch, "compiler"), reason="torch below 2.1 compiles nothing, or nothing on the Pythons of its cells"
)
def test_a_compiled_forward_is_refused_by_name_where_dynamo_guards_too_little(model, monkeypatch):
    monkeypatch.setattr(shim.graphs, "can_serve", lambda: False)
    head = model.get_base_model().head
    head.forward = torch.compile(head.forward, backend="eager")
    assert_refused(model, ["ann"], shim.RefusedError, "head", "torch.compile")


def test_groups_are_in_order_of_first_appearance_with_their_rows_in_order(model):
    batch = resolve(model, ["ben", "__base__", "ann", "ben", "ann", "__base__", "ben"])
    assert batch.names == ("ben", "__base__", "ann", "ben", "ann", "__base__", "ben")
    assert [(group.adapter, group.rows) for group in batch.groups] == [
        ("ben", (0, 3, 6)),
        ("__base__", (1, 5)),
        ("ann", (2, 4)),
    ]


@pytest.mark.parametrize("names", [["ann"], ("ann", "ann"), ["__base__"]])
def test_one_distinct_name_is_one_group(model, names):
    batch = resolve(model, names)
    assert [(group.adapter, group.rows) for group in batch.groups] == [(names[0], tuple(range(len(names))))]


def test_a_batch_is_the_callers_list_no_more(model):
    names = ["ann", "ben"]
    batch = resolve(model, names)
    names[0] = "cat"
    assert batch.names == ("ann", "ben")


def test_a_batch_and_its_groups_cannot_be_changed(model):
    batch = resolve(model, ["ann"])
    for frozen, field in ((batch, "names"), (batch.groups[0], "rows")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(frozen, field, ())


def test_resolving_leaves_the_model_as_it_was(model):
    def state():
        weights = {name: (id(p), p._version, p.requires_grad) for name, p in model.named_parameters()}
        hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), m.training) for m in model.modules()]
        return weights, hooks, model.active_adapter, [sorted(vars(m)) for m in model.modules()]

    before = state()
    resolve(model, ["ben", "__base__"])
    with pytest.raises(shim.UnknownAdapterError):
        resolve(model, ["dan"])
    assert state() == before


def test_a_batch_lists_every_layer_that_chooses_an_adapter(model):
    batch = resolve(model, ["ann"])
    assert isinstance(batch, MixedBatch)
    assert set(short(batch.layers)) == {"embedding", "first", "second", "head"}
    assert all(isinstance(layer, layer_kinds()) for _, layer in batch.layers)
    assert all(model.get_submodule(name) is layer for name, layer in batch.layers)


HELD = {
    "ann": {"embedding", "first"},
    "ben": {"first", "second", "head"},
    "cat": {"second"},
    BASE: set(),
    "dan": set(),
}


@pytest.mark.parametrize("adapter", sorted(HELD))
def test_a_layer_holds_the_adapters_that_have_weights_in_it(model, adapter):
    layers = short(adapter_layers(model))
    assert {name for name, layer in layers.items() if holds(layer, adapter)} == HELD[adapter]


def test_a_layer_holds_a_deleted_adapter_no_more(model, installed_shim):
    model.delete_adapter("ben")
    assert not any(holds(layer, "ben") for _, layer in adapter_layers(model))


def test_a_selection_tells_each_layer_whether_it_holds_the_adapter(model):
    batch = resolve(model, ["ben", "ann", "__base__"])
    for adapter in ("ben", "ann", BASE):
        selection = batch.selection(adapter)
        assert (selection.model, selection.adapter) == (model, adapter)
        layers = short(batch.layers)
        assert selection.holds == {id(layer): name in HELD[adapter] for name, layer in layers.items()}


def test_a_method_is_spelt_as_peft_spells_it():
    assert method_of(peft.LoraConfig()) == "LORA"
    assert method_of(peft.IA3Config()) == "IA3"


@pytest.mark.parametrize("error", [shim.AdapterNamesError, shim.UnknownAdapterError, shim.RefusedError])
def test_what_a_mixed_batch_raises_is_a_value_error_of_the_shim(error):
    assert issubclass(error, ValueError)
    assert issubclass(error, shim.MixedBatchError)
    assert issubclass(error, shim.ShimError)


def test_a_patch_error_is_no_value_error():
    assert issubclass(shim.PatchError, (shim.ShimError, RuntimeError))
    assert not issubclass(shim.PatchError, (ValueError, shim.MixedBatchError))
