"""The plans of every model, by signature: looked up at each call, made where none serves, never stale."""

from __future__ import annotations

import hashlib
import threading
import weakref
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Callable, Dict, Hashable, List, Mapping, Optional, Sequence, Tuple

import torch

from shim import policy
from shim.batch import MixedBatch
from shim.errors import RaisedInTrace, Unroutable
from shim.modules import base_layer_of, named_parameters
from shim.quantised import check_quantised
from shim.routing.inputs import Inputs
from shim.routing.owners import BY_INPUTS
from shim.routing.plan import Plan, generalize, instantiate
from shim.routing.trace import Owners, trace, trace_to_the_end

_MOST = 512
_PLAIN = (bool, int, float, str, type(None))
_LOCK = threading.Lock()


@dataclass
class _Family:
    """The plans of one structure at all lengths: the last one traced, and what serves every length."""

    last: Optional[Plan] = None
    general: Optional[Plan] = None


@dataclass
class PlanStore:
    """The plans of one model. A reason in the place of a plan says why there can be none."""

    exact: Dict[Hashable, Any] = field(default_factory=dict)
    families: Dict[Hashable, _Family] = field(default_factory=dict)

    def keep(self, key: Hashable, found: Any) -> None:
        """Hold `found`, which is exact for `key`."""
        with _LOCK:
            _keep(self.exact, key, found)

    def keep_general(self, key: Hashable, plan: Plan) -> None:
        """Hold `plan` for every length of the family `key`."""
        with _LOCK:
            _keep(self.families, key, _Family(plan, plan))


BY_VALUE: Any = object()
"""In the place of a plan: Python reads integers of the inputs, so that each of their values has one, or a reason."""


@dataclass(frozen=True)
class Signature:
    """What a plan hangs on. `family` is the same for all lengths."""

    exact: Hashable
    family: Hashable
    lengths: Mapping[str, Tuple[int, ...]]


_STORES: weakref.WeakKeyDictionary[Any, PlanStore] = weakref.WeakKeyDictionary()


def plan_for(
    function: Callable[..., Any],
    batch: MixedBatch,
    inputs: Inputs,
    rows: Sequence[int],
    owners: Owners,
    kind: str = "forward",
    again: bool = False,
    to_the_end: bool = False,
) -> Plan:
    """Return the plan of this call: a known one, one for every length, or that of a new trace.

    Args:
        kind: what is called, `forward` or a part of `generate`: they have plans of their own.
        again: trace although a plan is known, since it did not fit.
        to_the_end: whether a trace is run by `trace_to_the_end`: other ranks wait for it, and no other route is left.

    Raises:
        RaisedInTrace: the model raised.
        Unroutable: no plan can be made; the reason is kept, so that the next call does not trace again.
    """
    signature = signature_of(batch, inputs, rows, owners, kind)
    known = look_up(batch.model, signature)
    by_value = known is BY_VALUE
    if by_value:
        known = store_of(batch.model).exact.get((signature.exact, integers_of(inputs)))
    if known is not None and not again:
        if isinstance(known, Plan):
            return known
        raise Unroutable(known)
    remember = partial(_remember, batch.model, signature, inputs, again)
    try:
        plan = _traced(function, batch, inputs, rows, owners, to_the_end)
    except Unroutable as reason:
        reason.keep_by(partial(remember, str(reason), by_value or reason.by_value))
        raise
    remember(plan, not plan.by_data and (by_value or not plan.is_lasting))
    return plan


def look_up(model: Any, signature: Signature) -> Any:
    """Return the plan for `signature`, the reason why there is none, `BY_VALUE`, or None where nothing is known."""
    store = _STORES.get(model)
    if store is None:
        return None
    known = store.exact.get(signature.exact)
    if known is not None:
        # Which rows there are is in the inputs' data: it was right for those of that call only.
        return None if isinstance(known, Plan) and known.by_data == BY_INPUTS else known
    family = store.families.get(signature.family)
    if family is None or family.general is None:
        return None
    plan = instantiate(family.general, signature.lengths)
    store.keep(signature.exact, plan)
    return plan


def signature_of(batch: MixedBatch, inputs: Inputs, rows: Sequence[int], owners: Owners, kind: str) -> Signature:
    """Return what the plan of this call hangs on: structure, shapes, settings and model, never the names."""
    shapes: List[Hashable] = []
    loose: List[Hashable] = []
    lengths: Dict[str, Tuple[int, ...]] = {}
    caches = inputs.caches()
    without = Inputs({name: value for name, value in inputs.values.items() if name not in caches})
    for path, leaf in without.leaves().items():
        if isinstance(leaf, torch.Tensor):
            lengths[path] = tuple(leaf.shape)
            about = (path, str(leaf.dtype), str(leaf.device))
            shapes.append((*about, *leaf.shape))
            # A dimension of one is another case (a decoding step), and dim 0 counts the rows.
            loose.append((*about, *leaf.shape[:1], *(size == 1 for size in leaf.shape[1:])))
        else:
            shapes.append((path, repr(leaf)))
            loose.append((path, repr(leaf)))
    given = tuple(sorted((name, rule.dim, rule.owners) for name, rule in owners.items()))
    rest = (kind, tuple(rows), given, _caches(caches), _state_of(batch))
    return Signature((rest, *shapes), (rest, *loose), lengths)


def integers_of(inputs: Inputs) -> Hashable:
    """Return the values of the inputs' integers, in brief."""
    found = []
    for path, tensor in sorted(inputs.tensors().items()):
        if not tensor.is_floating_point() and not tensor.is_complex():
            values = tensor.detach().cpu().contiguous().numpy().tobytes()
            found.append((path, hashlib.sha256(values).hexdigest()))
    return tuple(found)


def forget(model: Any) -> None:
    """Forget every plan of `model`."""
    with _LOCK:
        _STORES.pop(model, None)


def store_of(model: Any) -> PlanStore:
    """Return the plans of `model`, made where there are none."""
    with _LOCK:
        return _STORES.setdefault(model, PlanStore())


def _traced(
    function: Callable[..., Any],
    batch: MixedBatch,
    inputs: Inputs,
    rows: Sequence[int],
    owners: Owners,
    to_the_end: bool,
) -> Plan:
    try:
        plan = (trace_to_the_end if to_the_end else trace)(function, batch, inputs, rows, owners)
    except (Unroutable, MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:
        if to_the_end:
            raise
        # The model's own error is met again by the next route, in the open.
        raise RaisedInTrace(f"tracing raised {type(error).__name__}: {error}") from error
    check_quantised(batch.model)
    return plan


def _remember(model: Any, signature: Signature, inputs: Inputs, again: bool, found: Any, by_value: bool) -> None:
    store = store_of(model)
    if by_value:
        store.keep((signature.exact, integers_of(inputs)), found)
        found = BY_VALUE
    with _LOCK:
        _keep(store.exact, signature.exact, found)
        family = store.families.get(signature.family)
        if family is None:
            family = _Family()
            _keep(store.families, signature.family, family)
        if again:  # a plan for every length did not fit this one
            family.general = family.last = None
        elif isinstance(found, Plan):
            if family.last is not None:
                family.general = generalize(family.last, found)
            family.last = found


def _keep(held: Dict[Hashable, Any], key: Hashable, value: Any) -> None:
    """Add to `held`, where the oldest go, lest changing arguments pile up."""
    held[key] = value
    while len(held) > _MOST:
        held.pop(next(iter(held)))


def _caches(caches: Mapping[str, Any]) -> Hashable:
    """Return what a plan hangs on of the caches: their classes, and whether they are filled."""
    return tuple((name, type(cache).__name__, _is_filled(cache)) for name, cache in sorted(caches.items()))


def _is_filled(cache: Any) -> bool:
    length = getattr(cache, "get_seq_length", None)
    if not callable(length):
        return True
    try:
        return bool(length())
    except ValueError:
        # Breakpoint: huggingface/transformers#44950: a cache of states alone, as Mamba has, has no length.
        return bool(cache.has_previous_state())


def _state_of(batch: MixedBatch) -> Hashable:
    """Return what a plan hangs on of the model and of torch: layers, settings, dtype, device, autocast, mode, hooks."""
    layers = tuple((name, type(layer).__name__, _base_name(layer)) for name, layer in batch.layers)
    _, first = next(named_parameters(batch.model), ("", None))
    kind = None if first is None else (str(first.dtype), str(first.device))
    allowed = tuple(sorted(policy.chosen().mixed_outputs))
    modes = batch.in_evaluation
    settings = _settings(getattr(batch.model, "config", None))
    return (layers, settings, kind, _autocast(), allowed, modes, batch.changes)


def _autocast() -> Hashable:
    # Breakpoint: pytorch/pytorch#125103, torch 2.4: one function for every device.
    if hasattr(torch, "get_autocast_dtype"):
        return (torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda"))
    return (torch.is_autocast_cpu_enabled(), torch.is_autocast_enabled())


def _base_name(layer: Any) -> str:
    base = base_layer_of(layer)
    return "" if base is None else type(base).__name__


def _settings(config: Any, depth: int = 2) -> Hashable:
    """Return what `config` and those inside it say in plain values: the attention, which outputs are wanted."""
    found: List[Hashable] = []
    for value in vars(config).values() if hasattr(config, "__dict__") else ():
        if isinstance(value, _PLAIN):
            found.append(value)
        elif depth and hasattr(value, "_attn_implementation"):
            found.append(_settings(value, depth - 1))
    return tuple(found)
