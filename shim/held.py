"""What modules hold in their attributes, and what is in that: seen at one moment, and put back later."""

from __future__ import annotations

import collections
import types
from operator import is_
from typing import Any, Callable, Dict, FrozenSet, Iterator, Tuple

import torch

from shim.routing.tree import is_object, is_state, map_leaves

_VALUES = (bool, int, float, complex, str, bytes, type(None))
_CONTAINERS = (dict, list, tuple, set, collections.deque)
_PLAIN = frozenset(_VALUES)
_ABSENT: Any = object()
# Torch's own; the caches that transformers' generate leaves on a model, and gives to its forward; what a model with
# adapters of its own holds for PEFT.
# Breakpoint: huggingface/transformers#43765, 5.2: the first forward that is asked for hidden states or
# attentions hooks the layers, for good, and marks the model. Without its mark it would hook them again, and return
# every one twice.
_NOT_KEPT = frozenset(vars(torch.nn.Module())) | {
    "_cache",
    "_static_cache",
    "_output_capturing_hooks_installed",
    "peft_config",
    "_hf_peft_config_loaded",
}

IsWritten = Callable[[torch.Tensor], bool]


class Seen:
    """A module, a container or a plain object, and what it held when this was made.

    Of a module these are plain values, tensors, containers, caches, and objects of its own package; not other modules,
    functions or configurations.
    """

    __slots__ = ("_attributes", "_foreign", "_inner", "_package", "_parts", "value")

    def __init__(self, value: Any, package: str = "", above: FrozenSet[int] = frozenset()) -> None:
        self.value = value
        self._package = package or type(value).__module__.split(".")[0]
        parts, above = _parts_of(value, self._package), above | {id(value)}
        self._parts = {k: part if type(part) in _PLAIN else self._seen(part, above) for k, part in parts.items()}
        self._inner = {key: part for key, part in self._parts.items() if isinstance(part, (Seen, torch.Tensor))}
        self._attributes = dict(vars(value)) if isinstance(value, torch.nn.Module) else None
        self._foreign = frozenset(self._attributes or ()) - parts.keys()

    def changed(self, is_written: IsWritten) -> Iterator[Tuple[Any, Any]]:
        """Yield (key, value now) of what is held otherwise now; None for what is gone.

        is_written: tells whether somebody wrote over a tensor that is still there.
        """
        if self._is_untouched():
            found = ((key, part, _value_of(part)) for key, part in self._inner.items())
            yield from ((key, value) for key, part, value in found if _is_other(part, value, is_written))
            return
        now = self._now()
        for key in (*self._parts, *(key for key in now if key not in self._parts)):
            if _is_other(self._parts.get(key, _ABSENT), now.get(key, _ABSENT), is_written):
                yield key, now.get(key)

    def restore(self) -> None:
        """Let the value hold what it held, and what it held likewise. Tensors hold what they do."""
        if not self._is_untouched():
            now = self._now()
            before = {key: _value_of(part) for key, part in self._parts.items()}
            if now.keys() != before.keys() or any(now[key] is not part for key, part in before.items()):
                _fill(self.value, before, now)
        for part in self._inner.values():
            if isinstance(part, Seen):
                part.restore()

    def tensors(self) -> Iterator[torch.Tensor]:
        """Yield the tensors in it; not parameters, which no forward writes to."""
        for part in self._inner.values():
            if isinstance(part, Seen):
                yield from part.tensors()
            elif not isinstance(part, torch.nn.Parameter):
                yield part

    def _seen(self, part: Any, above: FrozenSet[int]) -> Any:
        return Seen(part, self._package, above) if _is_whole(part, self._package) and id(part) not in above else part

    def _is_untouched(self) -> bool:
        """Whether a module has the very attributes that it had, as it mostly has; in C."""
        before, now = self._attributes, vars(self.value) if self._attributes is not None else {}
        return before is not None and len(now) == len(before) and all(map(is_, list(now.values()), before.values()))

    def _now(self) -> Dict[Any, Any]:
        parts = _parts_of(self.value, self._package)
        return {key: part for key, part in parts.items() if key not in self._foreign}


def copied(value: Any, is_written: IsWritten) -> Any:
    """Return a copy of `value` that stays when all is put back: of its containers, and of tensors that were written to.

    What it cannot copy is there as something that is equal to nothing, so that no batch is put together of it.
    """

    def copy(_: str, leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            return leaf.detach().clone() if is_written(leaf) else leaf
        return leaf if isinstance(leaf, (*_VALUES, dict, list, tuple, set)) else _Unknown(type(leaf).__name__)

    return map_leaves(copy, value, is_leaf=is_object)


class _Unknown:
    """An object that is equal to no other."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return f"a {self._name}"


def _parts_of(value: Any, package: str) -> Dict[Any, Any]:
    """Return what a module, a container or an object holds, by attribute, key or place."""
    if isinstance(value, torch.nn.Module):
        held = dict(vars(value))  # at one stroke, since other threads' calls may write on the module
        own = [(key, part) for key, part in held.items() if key not in _NOT_KEPT]
        return {key: part for key, part in own if type(part) in _PLAIN or _is_kept(part, package)}
    if isinstance(value, dict):
        return dict(value)
    if isinstance(value, set):
        return {part: part for part in set(value)}
    return dict(enumerate(list(value))) if isinstance(value, _CONTAINERS) else dict(vars(value))


def _is_kept(value: Any, package: str) -> bool:
    return isinstance(value, (*_VALUES, torch.Tensor)) or _is_whole(value, package)


def _is_whole(value: Any, package: str) -> bool:
    """Whether `value` holds others: a container, a cache, or a plain object of that package."""
    cls = type(value)
    if cls in _VALUES or isinstance(value, torch.Tensor):
        return False
    if isinstance(value, _CONTAINERS) or is_state(value) or cls is types.SimpleNamespace:
        return True
    if cls.__module__.split(".")[0] != package or package == "torch" or not hasattr(value, "__dict__"):
        return False
    others = (torch.nn.Module, type, types.FunctionType, types.MethodType, types.ModuleType)
    return not isinstance(value, others) and not hasattr(value, "to_dict")


def _value_of(part: Any) -> Any:
    return part.value if isinstance(part, Seen) else part


def _is_other(before: Any, now: Any, is_written: IsWritten) -> bool:
    was = _value_of(before)
    if was is not now:
        return not (isinstance(now, _VALUES) and type(was) is type(now) and was == now)
    if isinstance(before, Seen):
        return any(True for _ in before.changed(is_written))
    return isinstance(now, torch.Tensor) and is_written(now)


def _fill(value: Any, before: Dict[Any, Any], now: Dict[Any, Any]) -> None:
    """Let `value`, which holds `now`, hold `before`."""
    if isinstance(value, list):
        value[:] = before.values()
    elif isinstance(value, collections.deque):
        value.clear()
        value.extend(before.values())
    elif isinstance(value, set):
        value.clear()
        value.update(before)
    elif not isinstance(value, tuple):
        held = value if isinstance(value, dict) else vars(value)
        for key in now.keys() - before.keys():
            held.pop(key, None)
        for key, part in before.items():
            if now.get(key, _ABSENT) is not part:
                held[key] = part
