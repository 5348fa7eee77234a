"""Handles of hooks, copies of hooked modules, and what was made before the patch or without it."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections import OrderedDict
from typing import Any, List

import pytest
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from tests.shim.patches.forward_hooks_with_kwargs.hooked import (
    FORWARD,
    FORWARD_PRE,
    NATIVE,
    TORCH,
    Counting,
    Old,
    Outer,
    Scale,
    add_factor,
    on_old_torch,
    recorder,
    times_ten,
)


@pytest.mark.parametrize(
    ("register", "hooks", "extra", "hook"),
    [
        ("register_forward_pre_hook", "_forward_pre_hooks", FORWARD_PRE, times_ten),
        ("register_forward_hook", "_forward_hooks", FORWARD, add_factor),
    ],
)
def test_handle_removes_from_both_dictionaries(
    module: Scale, x: torch.Tensor, register: str, hooks: str, extra: str, hook: Any
) -> None:
    handle = getattr(module, register)(hook, with_kwargs=True)
    assert vars(module)[hooks] == {handle.id: hook}
    assert vars(module)[extra] == {handle.id: True}
    handle.remove()
    assert vars(module)[hooks] == {}
    assert vars(module)[extra] == {}
    handle.remove()
    assert module(x).tolist() == [2.0, 10.0]


def test_handle_removes_only_its_own(module: Scale, x: torch.Tensor) -> None:
    first = module.register_forward_pre_hook(times_ten, with_kwargs=True)
    module.register_forward_pre_hook(times_ten, with_kwargs=True)
    first.remove()
    assert module(x).tolist() == [20.0, 100.0]


def test_handle_is_a_context_manager(module: Scale, x: torch.Tensor) -> None:
    with module.register_forward_pre_hook(times_ten, with_kwargs=True) as handle:
        assert isinstance(handle, RemovableHandle)
        assert module(x).tolist() == [20.0, 100.0]
    assert module(x).tolist() == [2.0, 10.0]
    assert vars(module)[FORWARD_PRE] == {}


def test_handle_leaves_when_its_block_raises(module: Scale, x: torch.Tensor) -> None:
    with pytest.raises(KeyError), module.register_forward_pre_hook(times_ten, with_kwargs=True):
        raise KeyError
    assert module(x).tolist() == [2.0, 10.0]


def test_handle_holds_its_dictionaries_weakly() -> None:
    module = Scale()  # not the fixture, which pytest keeps alive
    handle = module.register_forward_pre_hook(times_ten, with_kwargs=True)
    references = weakref.ref(vars(module)["_forward_pre_hooks"]), weakref.ref(vars(module)[FORWARD_PRE])
    assert len(handle.__getstate__()) == 3
    del module
    gc.collect()
    assert [reference() for reference in references] == [None, None]
    handle.remove()
    if TORCH < (2, 1):  # torch 2.1 and later cannot load the state that they then write: (None, id, (None,))
        pickle.loads(pickle.dumps(handle)).remove()


def test_handle_takes_the_state_of_an_older_torch() -> None:
    hooks: Any = OrderedDict([("other", None)])
    handle = RemovableHandle(hooks)
    hooks[handle.id] = None
    assert handle.__getstate__()[:2] == (hooks, handle.id)
    loaded = RemovableHandle.__new__(RemovableHandle)
    loaded.__setstate__((hooks, handle.id))
    loaded.remove()
    assert hooks == OrderedDict([("other", None)])


def test_handles_have_ids_of_their_own() -> None:
    hooks: Any = OrderedDict()
    first = RemovableHandle(hooks, extra_dict=OrderedDict())
    loaded = RemovableHandle.__new__(RemovableHandle)
    loaded.__setstate__((hooks, first.id + 100, None))
    assert RemovableHandle(hooks).id == first.id + 101


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_keep_their_hooks_and_handles(module: Scale, x: torch.Tensor, duplicate: Any) -> None:
    handles = [
        module.register_forward_pre_hook(times_ten, with_kwargs=True),
        module.register_forward_hook(add_factor, with_kwargs=True),
    ]
    twin, twin_handles = duplicate((module, handles))
    assert twin(x).tolist() == [30.0, 110.0]
    for handle in reversed(twin_handles):
        handle.remove()
    assert twin(x).tolist() == [2.0, 10.0]
    assert vars(twin)[FORWARD] == vars(twin)[FORWARD_PRE] == {}
    assert module(x).tolist() == [30.0, 110.0], "removing from the copy reached the original"


def test_state_dict_has_no_trace_of_hooks(module: Scale) -> None:
    module.register_forward_pre_hook(times_ten, with_kwargs=True)
    assert list(module.state_dict()) == ["weight"]
    module.load_state_dict(Scale().state_dict())


def test_modules_made_before_the_patch(old: Old, x: torch.Tensor) -> None:
    old.seen.clear()
    with old.module.register_forward_pre_hook(times_ten, with_kwargs=True):
        assert old.module(x).tolist() == [20.0, 100.0]
    copy.deepcopy(old.handle).remove()
    assert old.module(x).tolist() == [2.0, 10.0]
    assert old.seen.count("plain") == 2


def test_handles_made_before_the_patch(old: Old, x: torch.Tensor) -> None:
    assert NATIVE or "extra_dict_ref" not in vars(old.doomed)
    assert old.doomed.__getstate__()[1] == old.doomed.id
    old.doomed.remove()
    old.seen.clear()
    old.module(x)
    assert old.seen == ["plain"]


def test_modules_unpickled_without_the_dictionaries(module: Scale, x: torch.Tensor) -> None:
    log: List[Any] = []
    module.register_forward_pre_hook(recorder(log, "plain", with_kwargs=False))
    state = {name: value for name, value in vars(module).items() if name not in (FORWARD, FORWARD_PRE)}
    loaded = Scale.__new__(Scale)
    loaded.__setstate__(state)
    assert loaded(x).tolist() == [2.0, 10.0]
    loaded.register_forward_hook(add_factor, with_kwargs=True)
    loaded.register_forward_pre_hook(times_ten, with_kwargs=True)
    assert loaded(x).tolist() == [30.0, 110.0]
    assert log == ["plain", "plain"]


@on_old_torch
def test_modules_without_kwargs_hooks_get_no_dictionaries(module: Scale, x: torch.Tensor) -> None:
    module.register_forward_pre_hook(lambda module, args: None, prepend=True)
    module.register_forward_hook(lambda module, args, output: None)
    module(x)
    assert vars(module).keys().isdisjoint({FORWARD, FORWARD_PRE})


def test_subclass_with_its_own_call(x: torch.Tensor) -> None:
    counting = Counting()
    counting.register_forward_pre_hook(times_ten, with_kwargs=True)
    assert counting(x).tolist() == [20.0, 100.0]
    assert counting.calls == 1


def test_call_impl_and_call_are_both_hooked(module: Scale, x: torch.Tensor) -> None:
    module.register_forward_pre_hook(times_ten, with_kwargs=True)
    assert module._call_impl(x).tolist() == nn.Module.__call__(module, x).tolist() == [20.0, 100.0]


def test_hooks_inside_a_model(x: torch.Tensor) -> None:
    outer = Outer()
    outer.inner.register_forward_pre_hook(times_ten, with_kwargs=True)
    assert outer(x).tolist() == [61.0, 301.0]
