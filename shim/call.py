"""How a call with `adapter_names` goes: checked, routed, run, and nothing left behind."""

from __future__ import annotations

import functools
import sys
import threading
import weakref
from contextlib import contextmanager
from typing import Any, Callable, Iterator, Mapping, Sequence

from shim.batch import MixedBatch, resolve
from shim.no_trace import failure_leaves_no_trace
from shim.routing.generation import run_split_generate
from shim.routing.inputs import Inputs, check_sample_count, parameter_names
from shim.routing.split import run_plain, run_split_forward
from shim.selection import is_selected, select

Method = Callable[..., Any]
Split = Callable[[Callable[..., Any], MixedBatch, Inputs], Any]

_LOCK = threading.Lock()
_EXCLUSIVE: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def forward_with_adapter_names(original: Method) -> Method:
    """Return `original`, a model's forward, with the keyword `adapter_names`: one name per sample."""
    return _with_adapter_names(original, run_split_forward)


def generate_with_adapter_names(original: Method) -> Method:
    """Return `original`, a model's generate, with the keyword `adapter_names`: one name per sample."""
    return _with_adapter_names(original, run_split_generate)


def _with_adapter_names(original: Method, split: Split) -> Method:
    @functools.wraps(original)
    def method(model: Any, *args: Any, adapter_names: Any = None, **kwargs: Any) -> Any:
        if adapter_names is not None:
            return _uncompiled(_call)(original, split, model, args, kwargs, adapter_names)
        if is_selected():  # a call inside another call's hooks is a call of its own
            with select(None):
                return original(model, *args, **kwargs)
        return original(model, *args, **kwargs)

    return method


def _call(
    original: Method, split: Split, model: Any, args: Sequence[Any], kwargs: Mapping[str, Any], names: Any
) -> Any:
    batch = resolve(model, names)
    inputs = Inputs.of(args, kwargs, _signature(model, original, split))
    check_sample_count(batch, inputs)
    run = run_plain if len(batch.groups) == 1 else split
    with _exclusive(batch), failure_leaves_no_trace(model, inputs.caches()):
        return run(functools.partial(original, model), batch, inputs)


def _signature(model: Any, original: Method, split: Split) -> Sequence[str]:
    """Return the names of positional arguments, from the model that PEFT hands them to."""
    names = parameter_names(original)[1:]
    if names:
        return names
    base = model.get_base_model() if hasattr(model, "get_base_model") else model.base_model
    return parameter_names(base.forward if split is run_split_forward else base.generate)


@contextmanager
def _exclusive(batch: MixedBatch) -> Iterator[None]:
    """Let one mixed call at a time use layers that register their adapter on the module while they run.

    `lora.ParamWrapper` parametrizes the expert weights for the length of its forward, so that two threads
    would see each other's adapter. Plain calls beside it are upstream's own race.
    """
    if not any(type(layer).__name__ == "ParamWrapper" for _, layer in batch.layers):
        yield
        return
    with _LOCK:
        lock = _EXCLUSIVE.setdefault(batch.model, threading.RLock())
    with lock:
        yield


def _uncompiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Keep torch.compile out of a mixed call: a graph would keep the adapter it was traced with."""
    dynamo = sys.modules.get("torch._dynamo")
    return function if dynamo is None else dynamo.disable(function)
