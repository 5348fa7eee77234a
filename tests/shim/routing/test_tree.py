from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import torch
from transformers import DynamicCache
from transformers.modeling_outputs import BaseModelOutput

from shim.routing.tree import is_cache, leaves, map_leaves, replace_state

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
