"""What a module holds is seen at any depth, and put back in place; what is not state is let alone."""

import functools
import types
from collections import OrderedDict, deque

import pytest
import torch
from torch import nn

from shim.held import Seen, copied


class Holder(nn.Module):
    """A module of this package."""


class Place:
    """An object of this package."""


class Settings(Place):
    def to_dict(self):
        return vars(self)


def never(_):
    return False


def held(value):
    holder = Holder()
    holder.it = value
    return holder, Seen(holder)


def record(**attributes):
    place = Place()
    vars(place).update(attributes)
    return place


CHANGES = {
    "a list": ([1, 2], lambda it: it.append(3)),
    "a list shortened": ([1, 2], lambda it: it.pop()),
    "a dict": ({"a": 1}, lambda it: it.update(b=2)),
    "a key gone": ({"a": 1}, lambda it: it.clear()),
    "an ordered dict": (OrderedDict(a=1), lambda it: it.update(a=2)),
    "a set": ({1, 2}, lambda it: it.add(3)),
    "a deque": (deque([1, 2], maxlen=2), lambda it: it.append(3)),
    "in a tuple": (([1],), lambda it: it[0].append(2)),
    "an object": (record(a=1), lambda it: setattr(it, "a", 2)),
    "a namespace": (types.SimpleNamespace(a=[1]), lambda it: it.a.append(2)),
    "far inside": ({"a": [record(b=deque([1]))]}, lambda it: it["a"][0].b.append(2)),
}


@pytest.mark.parametrize(("value", "change"), CHANGES.values(), ids=CHANGES)
def test_what_was_changed_is_told_and_put_back_in_place(value, change):
    holder, seen = held(value)
    shown = repr(held_in(value))
    assert not list(seen.changed(never))
    change(value)
    assert repr(held_in(value)) != shown
    assert [key for key, _ in seen.changed(never)] == ["it"]
    seen.restore()
    assert holder.it is value
    assert repr(held_in(value)) == shown
    assert not list(seen.changed(never))


def held_in(value):
    if isinstance(value, (Place, types.SimpleNamespace)):
        return {key: held_in(part) for key, part in vars(value).items()}
    if isinstance(value, dict):
        return {key: held_in(part) for key, part in value.items()}
    return [held_in(part) for part in value] if isinstance(value, (list, tuple, set, deque)) else value


LET_ALONE = {
    "a function": functools.partial(print),
    "a module in a list": [nn.Linear(1, 1)],
    "settings": Settings(),
    "another package's object": torch.Generator(),
}


@pytest.mark.parametrize("value", LET_ALONE.values(), ids=LET_ALONE)
def test_what_is_no_state_is_let_alone(value):
    inner = value[0] if isinstance(value, list) else value
    holder, seen = held(value)
    if hasattr(inner, "__dict__"):
        inner.mark = 1
    assert not list(seen.changed(never))
    seen.restore()
    assert holder.it is value
    assert getattr(inner, "mark", 1) == 1


def test_what_holds_itself_is_seen_once():
    value = [1]
    value.append(value)
    _, seen = held(value)
    value.append(2)
    assert [key for key, _ in seen.changed(never)] == ["it"]
    seen.restore()
    assert len(value) == 2


def test_attributes_that_come_and_go_are_told():
    holder, seen = held(1)
    holder.new = 2
    del holder.it
    assert dict(seen.changed(never)) == {"it": None, "new": 2}
    seen.restore()
    assert holder.it == 1
    assert not hasattr(holder, "new")


def test_tensors_are_found_at_any_depth_but_no_parameters():
    tensor, other = torch.zeros(1), torch.ones(1)
    holder, seen = held([{"a": tensor}, nn.Parameter(torch.ones(1))])
    holder.register_buffer("other", other)
    assert [one is tensor for one in seen.tensors()] == [True]
    assert [key for key, _ in seen.changed(lambda one: one is tensor)] == ["it"]


def test_a_copy_stays_what_it_was_and_what_cannot_be_copied_equals_nothing():
    written, other = torch.zeros(1), torch.zeros(1)
    value = {"a": [written, other], "b": 1, "c": deque([1])}
    copy = copied(value, lambda one: one is written)
    value["a"].append(2)
    written.add_(1)
    assert (copy["a"][0].item(), copy["a"][1] is other, len(copy["a"]), copy["b"]) == (0, True, 2, 1)
    assert copy["c"] != copied(value, never)["c"]
    assert repr(copy["c"]) == "a deque"
