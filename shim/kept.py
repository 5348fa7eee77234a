"""What a forward keeps on the modules themselves for the next call: position deltas, recurrent states, cached tables.

Neither parameters nor buffers, and in no cache that anybody passes: Qwen-VL's `rope_deltas`, RecurrentGemma's states.
"""

from __future__ import annotations

import threading
import weakref
from operator import is_
from typing import Any, Dict, FrozenSet, Iterable, Iterator, List, Mapping, Tuple

import torch

from shim.kernels.attention import is_attention
from shim.modules import walk

_PLAIN = (bool, int, float, str, type(None), torch.Tensor)
_ABSENT: Any = object()
_LOCK = threading.Lock()
_KEEPERS: weakref.WeakKeyDictionary[Any, FrozenSet[str]] = weakref.WeakKeyDictionary()
"""The names of the modules that were seen to keep something."""


class Kept:
    """What modules hold as plain attributes, tensors among them, when this is made."""

    def __init__(self, modules: Iterable[Tuple[str, Any]]) -> None:
        self._before: List[Tuple[str, Dict[str, Any], Dict[str, Any]]] = [
            (name, vars(module), dict(vars(module))) for name, module in modules
        ]
        self._copies = {
            id(value): (value, value._version, value.detach().clone())
            for _, _, before in self._before
            for value in before.values()
            if isinstance(value, torch.Tensor) and not value.is_inference()  # which nothing outside can write to
        }

    def changed(self) -> Dict[str, Any]:
        """Return what is held otherwise now, by the module's name, a colon and the attribute's."""
        return {
            f"{name}:{key}": now for name, held, before in self._before for key, _, now in self._moved(held, before)
        }

    def restore(self) -> None:
        """Put back what was held before."""
        for value, version, copy in self._copies.values():
            if value._version != version:
                with torch.no_grad():
                    value.copy_(copy)
        for _, held, before in self._before:
            for key, was, _ in list(self._moved(held, before)):
                if was is _ABSENT:
                    held.pop(key, None)
                else:
                    held[key] = was

    def _moved(self, held: Mapping[str, Any], before: Mapping[str, Any]) -> Iterator[Tuple[str, Any, Any]]:
        """Yield (attribute, what it was, what it is) of those that are plain and are otherwise now."""
        held = dict(held)  # at one stroke, since other threads' calls may write on the module
        untouched = len(held) == len(before) and all(map(is_, held.values(), before.values()))
        if untouched and self._copies.keys().isdisjoint(map(id, before.values())):
            return  # as it mostly is, and in C
        for key, now in held.items():
            was = before.get(key, _ABSENT)
            if key[:1] == "_" or key == "training" or not isinstance(now, _PLAIN):
                continue
            if (was is _ABSENT or isinstance(was, _PLAIN)) and not self._same(was, now):
                yield key, was, now

    def _same(self, was: Any, now: Any) -> bool:
        if isinstance(was, torch.Tensor) or isinstance(now, torch.Tensor):
            copied = self._copies.get(id(was))
            return was is now and (copied is None or copied[1] == was._version)
        return bool(was == now)


def kept_by_all(model: Any, adapters: Iterable[str]) -> Kept:
    """Return what every module of `model` keeps now, but for those of others than `adapters`, which do not run.

    Nor those of `lora.MultiheadAttention`: a call without names puts merged weights on them for a moment, maybe another
    thread's, and one with names runs on a copy (`kernels.attention`).
    """
    modules = list(walk(model, set(adapters)))
    attentions = tuple(found.name + "." for found in modules if found.is_layer and is_attention(found.module))
    return Kept((found.name, found.module) for found in modules if not found.name.startswith(attentions))


def kept_by_keepers(model: Any) -> Kept:
    """Return what those modules keep now that were seen to keep something; mostly there is none."""
    found = ((name, _module_at(model, name)) for name in _KEEPERS.get(model, ()))
    return Kept((name, module) for name, module in found if module is not None)


def note(model: Any, changed: Mapping[str, Any]) -> None:
    """Remember the modules of `model` that a forward has `changed` an attribute of."""
    names = frozenset(path.partition(":")[0] for path in changed)
    if names - _KEEPERS.get(model, frozenset()):
        with _LOCK:
            _KEEPERS[model] = _KEEPERS.get(model, frozenset()) | names


def keep(model: Any, changed: Mapping[str, Any]) -> None:
    """Let the modules of `model` hold what `changed` says."""
    for path, value in changed.items():
        name, _, key = path.partition(":")
        vars(_module_at(model, name))[key] = value


def _module_at(model: Any, name: str) -> Any:
    """Return the module of that name as it is now, None where there is none, without a walk over all."""
    for part in name.split(".") if name else ():
        model = None if model is None else vars(model)["_modules"].get(part)
    return model
