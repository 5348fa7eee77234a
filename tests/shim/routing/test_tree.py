import functools
import re
from collections import OrderedDict, UserDict, defaultdict, namedtuple
from dataclasses import dataclass, field
from types import MappingProxyType, SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from transformers import BatchEncoding, DynamicCache
from transformers.modeling_outputs import BaseModelOutput, ModelOutput

import shim
from shim.routing.tree import held_now, is_cache, is_object, is_opaque, leaves, map_leaves, replace_state

Pair = namedtuple("Pair", "left right")


@dataclass
class Box:
    inside: object


def test_leaves_have_paths_in_a_fixed_order():
    value = {"a": [1, (2, None)], "b": Pair("x", Box(3))}
    assert leaves(value) == [
        ("a[0]", 1),
        ("a[1][0]", 2),
        ("a[1][1]", None),
        ("b[0]", "x"),
        ("b[1].inside", 3),
    ]


def test_mapping_keeps_every_type_of_container():
    value = {"a": [1], "b": Pair(2, Box(3)), "c": OrderedDict(d=4), "e": (5,)}
    doubled = map_leaves(lambda path, leaf: leaf * 2, value)
    assert doubled == {"a": [2], "b": Pair(4, Box(6)), "c": OrderedDict(d=8), "e": (10,)}
    assert type(doubled["c"]) is OrderedDict
    assert value["a"] == [1]


def test_mapping_copies_empty_containers():
    value = {"filled later": [], "also": {}}
    copied = map_leaves(lambda path, leaf: leaf, value)
    assert copied["filled later"] is not value["filled later"]
    assert copied["also"] is not value["also"]


def test_model_outputs_stay_model_outputs():
    output = BaseModelOutput(last_hidden_state=torch.ones(2), hidden_states=(torch.ones(1),))
    mapped = map_leaves(lambda path, leaf: leaf + 1, output)
    assert type(mapped) is BaseModelOutput
    assert torch.equal(mapped.last_hidden_state, torch.full((2,), 2.0))
    assert torch.equal(mapped.hidden_states[0], torch.full((1,), 2.0))
    assert mapped.attentions is None


def cache_with(value):
    cache = DynamicCache()
    cache.update(torch.full((2, 1, 3, 4), value), torch.full((2, 1, 3, 4), -value), 0)
    return cache


def test_caches_are_looked_into_and_copied():
    cache = cache_with(1.0)
    assert is_cache(cache)
    assert sum(isinstance(leaf, torch.Tensor) for _, leaf in leaves(cache)) == 2
    copied = map_leaves(lambda path, leaf: leaf, cache)
    copied.update(torch.ones(2, 1, 1, 4), torch.ones(2, 1, 1, 4), 0)
    assert copied.get_seq_length() == 4
    assert cache.get_seq_length() == 3


def test_an_empty_cache_is_copied_too():
    cache = DynamicCache()
    copied = map_leaves(lambda path, leaf: leaf, cache)
    copied.update(torch.ones(2, 1, 1, 4), torch.ones(2, 1, 1, 4), 0)
    assert cache.get_seq_length() == 0


def test_state_is_replaced_in_place():
    target, source = cache_with(1.0), cache_with(2.0)
    replace_state(target, source)
    values = [leaf.flatten()[0].item() for _, leaf in leaves(target) if isinstance(leaf, torch.Tensor)]
    assert sorted(values) == [-2.0, 2.0]


def test_what_is_no_container_is_a_leaf():
    assert leaves(torch.float32) == [("", torch.float32)]
    assert not is_cache(torch.nn.Linear(1, 1))


@dataclass
class Summed:
    left: float
    right: float = 1.0
    total: float = field(init=False)

    def __post_init__(self):
        self.right += 1
        self.total = self.left + self.right


@dataclass(frozen=True)
class Frozen:
    left: float

    def __post_init__(self):
        object.__setattr__(self, "left", self.left + 1)


@dataclass
class Scored(ModelOutput):
    left: float = None
    right: float = None

    def __post_init__(self):
        self.left += 1
        super().__post_init__()


class Moved(NamedTuple("Moved", [("left", float)])):
    def __new__(cls, left):
        return super().__new__(cls, left + 1)


class Slotted:
    __slots__ = ("__hidden", "left", "never_set")

    def __init__(self, left):
        self.left, self.__hidden = left, left + 1


class AsAttributes(dict):
    def __init__(self, **items):
        super().__init__(**items)
        self.__dict__ = self


class Tagged(list):
    def __init__(self, first, tag):
        super().__init__([first])
        self.tag = tag


HOLDERS = {
    "a dataclass that computes": Summed(3.0),
    "a frozen one": Frozen(3.0),
    "a model output that computes": Scored(left=3.0, right=4.0),
    "a named tuple that computes": Moved(3.0),
    "a namespace": SimpleNamespace(left=3.0, inside=[SimpleNamespace(right=4.0)]),
    "slots": Slotted(3.0),
    "a UserDict": UserDict(left=3.0),
    "a BatchEncoding": BatchEncoding({"left": 3.0}),
    "a mapping that cannot be changed": MappingProxyType({"left": 3.0}),
    "a dict whose items are attributes": AsAttributes(left=3.0),
    "a defaultdict": defaultdict(list, left=3.0),
    "a list with attributes": Tagged(3.0, 4.0),
}


@pytest.mark.parametrize("value", HOLDERS.values(), ids=HOLDERS)
def test_what_is_held_is_found_and_put_back_in_a_copy_of_the_same_class(value):
    before = leaves(value)
    assert [leaf for _, leaf in before if isinstance(leaf, float)]
    copied = map_leaves(lambda path, leaf: leaf * 10 if isinstance(leaf, float) else leaf, value)
    assert type(copied) is type(value)
    assert copied is not value
    assert leaves(value) == before
    assert leaves(copied) == [(path, leaf * 10 if isinstance(leaf, float) else leaf) for path, leaf in before]


def test_items_that_are_attributes_too_are_the_same_in_a_copy():
    for value in (AsAttributes(left=3.0), BaseModelOutput(last_hidden_state=3.0)):
        copied = map_leaves(lambda path, leaf: leaf * 10, value)
        assert [getattr(copied, key) for key in copied] == [30.0]


def test_attributes_beside_the_fields_and_items_are_found():
    output, box = BaseModelOutput(last_hidden_state=1.0), Box(2.0)
    output.beside = box.beside = 3.0
    assert leaves(output) == [("last_hidden_state", 1.0), (".beside", 3.0)]
    assert leaves(box) == [(".inside", 2.0), (".beside", 3.0)]


def test_an_object_is_looked_into_once_and_stays_one():
    both = SimpleNamespace(rows=1.0)
    value = {"a": both, "b": both}
    assert leaves(value) == [("a.rows", 1.0)]
    copied = map_leaves(lambda path, leaf: leaf + 1, value)
    assert copied["a"] is copied["b"]
    assert copied["a"].rows == 2.0


@pytest.mark.parametrize("inside", [lambda value: value, lambda value: [{"a": value}]])
def test_what_holds_itself_is_looked_into_and_not_copied(inside):
    value = SimpleNamespace(rows=1.0)
    value.again = inside(value)
    assert leaves(value) == [(".rows", 1.0)]
    with pytest.raises(shim.RefusedError, match=r"'x\.again.*', a types.SimpleNamespace, holds itself"):
        map_leaves(lambda path, leaf: leaf, value, "x")


def test_an_object_is_one_leaf_where_that_is_asked_for():
    value = {"object": SimpleNamespace(rows=1.0), "box": Box(2.0)}
    assert leaves(value, is_leaf=is_object) == [("object", value["object"]), ("box.inside", 2.0)]


def test_modules_and_what_the_shim_puts_in_are_not_looked_into():
    from shim.held import _Unknown

    for leaf in (torch.nn.Linear(1, 1), Box, torch, shim.install, _Unknown("Thing"), torch.Generator()):
        assert leaves([leaf]) == [("[0]", leaf)]


def test_an_output_that_is_filled_at_every_call_is_held_as_it_is_now():
    cache = DynamicCache()
    output = {"rows": [1], "cache": cache, "object": SimpleNamespace(rows=1)}
    now = held_now(output)
    output["rows"].append(2)
    output["object"].rows = 2
    assert now == {"rows": [1], "cache": cache, "object": SimpleNamespace(rows=1)}
    assert now["cache"] is cache


def test_leaves_that_may_hide_tensors_are_known():
    rows = torch.ones(1)
    opaque = [{rows}, (x for x in [rows]), lambda: rows, iter([rows]), rows.sum, functools.partial(max, rows)]
    assert [is_opaque(leaf) for leaf in opaque] == [True] * len(opaque)
    clear = [rows, None, 1, "a", {"a"}, {}, leaves, torch.nn.Linear(1, 1).forward, torch.float32, rows.numpy(), Box]
    assert [is_opaque(leaf) for leaf in clear] == [False] * len(clear)
    assert leaves(re.compile("a")) == [("", re.compile("a"))]
