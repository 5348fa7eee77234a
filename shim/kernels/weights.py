"""The adapters' weights of a LoRA layer, as they are: gathered by rank, and seen as one where they lie side by side."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, repeat
from operator import attrgetter, contains, itemgetter
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, TypeVar

import torch

from shim.routing.storage import storage_of

# In C, adapter by adapter: a decoded token goes through here once for each layer.
_HOOKS = itemgetter("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
_STATE = itemgetter("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_parameters")
_KIND = attrgetter("shape", "dtype")
_LINEAR = {torch.nn.Linear}
_DROPOUT = {torch.nn.Dropout, torch.nn.Identity}
_Value = TypeVar("_Value")
# A DTensor, say, is what its module makes of it.
_PLAIN = (torch.nn.Parameter, torch.Tensor)


@dataclass(frozen=True)
class Weights:
    """The weights of some adapters of one rank in one layer: down (rank, in), up (out, rank), and scalings."""

    downs: Tuple[torch.Tensor, ...]
    ups: Tuple[torch.Tensor, ...]
    scalings: Tuple[float, ...]


def weights_by_rank(layer: Any, adapters: Sequence[str]) -> Optional[List[Tuple[List[int], Weights]]]:
    """Return the adapters' positions and weights, those of one rank and dtype together.

    None where some adapter is more than two weights and a scaling: a bias, a hook (one that prunes or normalises
    makes the weight anew at each call), a parametrization, or another module than a dropout in its dropout's place.
    """
    if not has_plain_dropout(layer, adapters):
        return None
    downs, ups = (_only_weights(vars(layer)["_modules"][name]._modules, adapters) for name in ("lora_A", "lora_B"))
    if downs is None or ups is None:
        return None
    scaling = layer.scaling
    scalings = [scaling[adapter] for adapter in adapters]
    kinds = list(map(_KIND, downs))
    slots: Dict[Any, List[int]] = {}
    if kinds.count(kinds[0]) == len(kinds):  # as it mostly is
        slots[kinds[0]] = list(range(len(kinds)))
    else:
        for slot, kind in enumerate(kinds):
            slots.setdefault(kind, []).append(slot)
    return [(some, Weights(_at(some, downs), _at(some, ups), _at(some, scalings))) for some in slots.values()]


def _at(slots: Sequence[int], values: Sequence[_Value]) -> Tuple[_Value, ...]:
    return tuple([values[slot] for slot in slots])


def _only_weights(modules: Mapping[str, Any], adapters: Sequence[str]) -> Optional[List[torch.Tensor]]:
    """Return the weights of linear modules that are nothing else; None where calling one may do more."""
    found = [modules[adapter] for adapter in adapters]
    states = list(map(vars, found))
    if not _LINEAR.issuperset(map(type, found)) or _replaced(states):
        return None
    weights = []
    for forward_hooks, pre_hooks, backward_hooks, parameters in map(_STATE, states):
        if forward_hooks or pre_hooks or backward_hooks or parameters.get("bias") is not None:
            return None
        weight = parameters.get("weight")  # none where something else makes it: flat parameters
        if type(weight) not in _PLAIN:
            return None
        weights.append(weight)
    return weights


def has_plain_dropout(layer: Any, adapters: Sequence[str]) -> bool:
    """Whether each adapter's `lora_dropout` is torch's or none: that nobody put another module or a hook there."""
    modules = vars(layer)["_modules"]["lora_dropout"]._modules
    found = [modules[adapter] for adapter in adapters]
    states = list(map(vars, found))
    if not _DROPOUT.issuperset(map(type, found)) or _replaced(states):
        return False
    return not any(chain.from_iterable(map(_HOOKS, states)))


def _replaced(states: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a module, of which this is what it holds, has a forward of its own."""
    return any(map(contains, states, repeat("forward")))


def side_by_side(tensors: Sequence[torch.Tensor]) -> Optional[torch.Tensor]:
    """Return (tensors, …), a view of the tensors' own memory, where they lie in it at equal steps; else None.

    Nothing is remembered, so nothing goes stale: where memory lies is asked at every call. With gradients there is no
    such view: it would be of the first tensor alone.
    """
    if len(tensors) < 2 or torch.is_grad_enabled():
        return None
    first = tensors[0]
    places = list(map(torch.Tensor.data_ptr, tensors))
    step, size = places[1] - places[0], first.element_size()
    if step <= 0 or step % size or places != list(range(places[0], places[0] + step * len(places), step)):
        return None
    storage = storage_of(first)
    extent = size * (1 + sum((length - 1) * stride for length, stride in zip(first.shape, first.stride())))
    # Equal steps may be chance; what lies within the first one's storage does not.
    if places[-1] + extent > storage.data_ptr() + storage.nbytes():
        return None
    if len(set(map(torch.Tensor.stride, tensors))) > 1 or len(set(map(_KIND, tensors))) > 1:
        return None
    return first.as_strided((len(tensors), *first.shape), (step // size, *first.stride()))
