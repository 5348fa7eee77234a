"""What a forward keeps in the model for the next call: position deltas, recurrent states, caches, tables.

In no cache that anybody passes, but in buffers and in attributes of the modules, private ones too, or in what those
hold: Qwen-VL's `rope_deltas`, RecurrentGemma's states, a list that each step adds to.
"""

from __future__ import annotations

import threading
import weakref
from contextlib import contextmanager
from typing import Any, Container, Dict, FrozenSet, Iterable, Iterator, List, Mapping, Tuple

import torch

from shim.errors import RefusedError
from shim.held import Seen, copied
from shim.kernels.attention import is_attention
from shim.modules import Found, walk
from shim.routing.layout import same_values
from shim.routing.mode import ThreadedDispatchMode
from shim.routing.operations import operation
from shim.routing.storage import address

_LOCK = threading.Lock()
_KEEPERS: weakref.WeakKeyDictionary[Any, FrozenSet[str]] = weakref.WeakKeyDictionary()
"""The names of the modules that were seen to keep something."""


class Kept:
    """What modules hold in attributes, and in evaluation mode in buffers, when this is made; and what is in it.

    writers: the names of those modules whose tensors are copied at once, since they write over them.
    """

    def __init__(self, modules: Iterable[Tuple[str, Any]], writers: Container[str] = ()) -> None:
        self._seen: List[Tuple[str, Seen]] = []
        self._places: Dict[int, List[torch.Tensor]] = {}
        self._versions: Dict[int, Tuple[torch.Tensor, int]] = {}
        self._copies: Dict[int, Tuple[torch.Tensor, torch.Tensor]] = {}
        for name, module in modules:
            # In training mode they are statistics, which adapters trained in turn write to one after the other.
            buffers = () if module.training else (Seen(vars(module)["_buffers"]),)
            for held in (Seen(module), *buffers):
                self._seen.append((name, held))
                for tensor in held.tensors():
                    self._add(tensor, name in writers)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Copy tensors before an operation on this thread, inside the block, writes over them."""
        if not self._places:
            yield
            return
        with _CopyOnWrite(self):
            yield

    def copy(self, place: int) -> None:
        """Copy the tensors whose storage has this address."""
        for tensor in self._places.pop(place, ()):
            self._copies[id(tensor)] = (tensor, tensor.detach().clone())

    def changed(self) -> Dict[str, Any]:
        """Return copies of what is held otherwise now, by the module's name, a colon and the attribute's."""
        return {
            f"{name}:{key}": copied(now, self._is_written)
            for name, seen in self._seen
            for key, now in seen.changed(self._is_written)
        }

    def restore(self) -> None:
        """Put back what was held before.

        Raises:
            RefusedError: a tensor was written over of which there is no copy.
        """
        for _, seen in self._seen:
            seen.restore()
        for tensor, copy in self._copies.values():
            if self._is_written(tensor):
                with torch.no_grad():
                    tensor.copy_(copy)
        for tensor, _ in self._versions.values():
            if id(tensor) not in self._copies and self._is_written(tensor):
                raise RefusedError(
                    f"the model writes over a tensor of shape {tuple(tensor.shape)} that it keeps, which it did not "
                    "when its batches were first split, so that the parts of this one have met each other's. Give the "
                    "model back the state that it had before this call; the next one is right"
                )

    def _add(self, tensor: torch.Tensor, at_once: bool) -> None:
        if tensor.layout is not torch.strided or hasattr(tensor, "device_mesh"):
            return
        self._places.setdefault(address(tensor), []).append(tensor)
        if at_once:
            self.copy(address(tensor))
        elif not tensor.is_inference():  # which have no version
            self._versions[id(tensor)] = (tensor, tensor._version)

    def _is_written(self, tensor: torch.Tensor) -> bool:
        if id(tensor) in self._copies:
            return not same_values(tensor, self._copies[id(tensor)][1])
        return id(tensor) in self._versions and tensor._version != self._versions[id(tensor)][1]


class _CopyOnWrite(ThreadedDispatchMode):
    """Has `kept` copy what an operation is about to write over."""

    def __init__(self, kept: Kept) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kept = kept

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run `func`."""
        kwargs = kwargs or {}
        for tensor in operation(func).written(args, kwargs):
            if tensor.layout is torch.strided and not hasattr(tensor, "device_mesh"):
                self._kept.copy(address(tensor))
        return func(*args, **kwargs)


def kept_by_all(model: Any, adapters: Iterable[str]) -> Kept:
    """Return what every module of `model` keeps now, but for those of others than `adapters`, which do not run.

    Nor those of `lora.MultiheadAttention`: a call without names puts merged weights on them for a moment, maybe another
    thread's, and one with names runs on a copy (`kernels.attention`). Nor PEFT's own, which hold what another thread
    may be setting: the active adapter, a new one's scaling.
    """
    modules = list(walk(model, set(adapters)))
    attentions = tuple(found.name + "." for found in modules if found.is_layer and is_attention(found.module))
    own = [found for found in modules if not _is_of_peft(found) and not found.name.startswith(attentions)]
    return Kept(((found.name, found.module) for found in own), _KEEPERS.get(model, ()))


def kept_by_keepers(model: Any) -> Kept:
    """Return what those modules keep now that were seen to keep something; mostly there is none."""
    names = _KEEPERS.get(model, frozenset())
    found = ((name, _module_at(model, name)) for name in names)
    return Kept(((name, module) for name, module in found if module is not None), names)


def note(model: Any, changed: Mapping[str, Any]) -> None:
    """Remember the modules of `model` that a forward has `changed` something of."""
    names = frozenset(path.partition(":")[0] for path in changed)
    if names - _KEEPERS.get(model, frozenset()):
        with _LOCK:
            _KEEPERS[model] = _KEEPERS.get(model, frozenset()) | names


def keep(model: Any, changed: Mapping[str, Any]) -> None:
    """Let the modules of `model` hold what `changed` says."""
    for path, value in changed.items():
        name, _, key = path.partition(":")
        state = vars(_module_at(model, name))
        held = state["_buffers"] if key in state["_buffers"] else state
        before = held.get(key)
        if _fits(before, value):  # others may hold it too
            with torch.no_grad():
                before.copy_(value)
        else:
            held[key] = value


def _fits(before: Any, value: Any) -> bool:
    both = isinstance(before, torch.Tensor) and isinstance(value, torch.Tensor)
    return both and (before.shape, before.dtype, before.device) == (value.shape, value.dtype, value.device)


def _is_of_peft(found: Found) -> bool:
    return found.is_layer or type(found.module).__module__.split(".")[0] == "peft"


def _module_at(model: Any, name: str) -> Any:
    """Return the module of that name as it is now, None where there is none, without a walk over all."""
    for part in name.split(".") if name else ():
        model = None if model is None else vars(model)["_modules"].get(part)
    return model
