"""A caller's cache, put back as it was where the call that filled it fails (contract S1).

Its attributes are, and the tensors that a forward writes over. A copy of them for each decoded token would cost more
than the token (256 MiB of a static cache, 8 layers of width 512, one CPU thread: 100 ms beside 80), so there is none
where transformers' own code tells how to do without.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Callable, Dict, Iterator, List, Optional

import torch

from shim.routing.tree import is_state, map_leaves, replace_state

# transformers' own that put new tensors in the place of their old ones.
_APPEND = frozenset(("transformers.cache_utils", f"Dynamic{kind}") for kind in ("Cache", "Layer", "SlidingWindowLayer"))
_CONTAINERS = (dict, list, tuple)
_LEAVES = (torch.Tensor, int, str, type(None), torch.dtype, torch.device)


@contextmanager
def failure_restores(caches: Dict[str, Any]) -> Iterator[None]:
    """Put back what `caches` held where the block raises. Inside of another such block it shares that one's copies."""
    before = {name: map_leaves(lambda _, leaf: leaf, cache) for name, cache in caches.items()}
    states = [state for cache in caches.values() for state in _states(cache)]
    counted = [state for state in states if _is_counted(state)]
    undo = [_to_empty(state) for state in counted]
    copies = _copies_of([tensor for state in states for tensor in _written_over(state)])
    token = _COPIES.set(copies)
    try:
        yield
    except BaseException:
        for name, cache in caches.items():
            replace_state(cache, before[name])
        for put_back in (*undo, *(copy.restore for copy in copies.values())):
            put_back()
        raise
    finally:
        _COPIES.reset(token)


class _Copy:
    """A copy of `tensor`, good for as long as nobody writes over that."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor, self._copy = tensor, tensor.detach().clone()
        self._version = _version(tensor)

    def is_good(self) -> bool:
        """Whether the tensor is as it was; not known of one that was made in inference mode."""
        return self._version is not None and _version(self._tensor) == self._version

    def restore(self) -> None:
        """Let the tensor hold what it held."""
        if not self.is_good():
            _write(self._tensor, self._copy)
            self._version = _version(self._tensor)


_COPIES: ContextVar[Optional[Dict[int, _Copy]]] = ContextVar("shim_copies", default=None)


def _copies_of(tensors: List[torch.Tensor]) -> Dict[int, _Copy]:
    known = _COPIES.get() or {}
    found: Dict[int, _Copy] = {}
    for tensor in tensors:
        copy = known.get(id(tensor))
        found[id(tensor)] = copy if copy is not None and copy.is_good() else _Copy(tensor)
    return found


def _states(cache: Any) -> Iterator[Any]:
    """Yield the caches and layers of caches in `cache`, itself among them, but for those that only append."""
    pending = [cache]
    while pending:
        value = pending.pop()
        if isinstance(value, _CONTAINERS):
            pending += value.values() if isinstance(value, dict) else value
        elif isinstance(value, _LEAVES):
            continue
        elif (type(value).__module__, type(value).__name__) in _APPEND:
            pending += (vars(value).get("layers"),)
        elif is_state(value):
            yield value
            pending += vars(value).values()


def _written_over(state: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors that a cache, or a layer of one, holds itself, may write over, and can be undone by copies."""
    undone = ("keys", "values") if _is_counted(state) else ()
    pending = [value for name, value in vars(state).items() if name not in undone]
    while pending:
        value = pending.pop()
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, _CONTAINERS):
            pending += value.values() if isinstance(value, dict) else value


# ---- static layers that count


def _is_counted(state: Any) -> bool:
    """Whether `state` is a static layer that writes behind the tokens that it has counted, and nowhere else."""
    # Breakpoint: absent in transformers 4.56, there in 5.5; before, it counts what is not zero, and writes where told.
    cls, held = type(state), vars(state)
    if (cls.__module__, cls.__name__) != ("transformers.cache_utils", "StaticLayer"):
        return False
    return all(isinstance(held.get(name), torch.Tensor) for name in ("keys", "values", "cumulative_length"))


def _to_empty(layer: Any) -> Callable[[], None]:
    """Return what empties the places that a static layer fills from now on: behind its tokens there is nothing."""
    count, held = layer.cumulative_length, (layer.keys, layer.values)
    before = count.detach().clone()

    def undo() -> None:
        start, end = int(before), int(count)
        if end > start:
            for tensor in held:
                _write(tensor[:, :, start:end], torch.zeros((), dtype=tensor.dtype, device=tensor.device))

    return undo


def _write(tensor: torch.Tensor, value: torch.Tensor) -> None:
    with torch.inference_mode() if tensor.is_inference() else torch.no_grad():
        tensor.copy_(value)


def _version(tensor: torch.Tensor) -> Any:
    return None if tensor.is_inference() else tensor._version
