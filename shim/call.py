"""How a call with `adapter_names` goes: checked, routed, run, and nothing left behind."""

from __future__ import annotations

import functools
import sys
import threading
import weakref
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, Callable, Dict, Iterator, Mapping, Sequence

import torch

from shim.batch import MixedBatch, resolve
from shim.errors import AdapterNamesError, RefusedError
from shim.graphs import Graphs, can_serve
from shim.modules import base_model_of, has_adapters, is_compiled, named_modules
from shim.no_trace import failure_leaves_no_trace
from shim.prompts import heeding_names, method_of_model
from shim.ranks import ranks_of
from shim.recording import check_not_recorded
from shim.routing.inputs import Inputs, check_owners, check_sample_count, parameter_names
from shim.routing.route import run_forward, run_generate, run_one_adapter
from shim.routing.sampling import Generators, check_generators, drawing_from
from shim.routing.split import run_per_sample, run_plain
from shim.routing.together import check_together, run_together
from shim.routing.trace import Owners
from shim.selection import is_compiling, is_routed, select, selected, selected_graphs
from shim.training import check_training

Method = Callable[..., Any]
Run = Callable[[Callable[..., Any], MixedBatch, Inputs, Owners], Any]

_LOCK = threading.Lock()
_ENTERED: ContextVar[Any] = ContextVar("shim_entered", default=None)
_EXCLUSIVE: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def forward_with_adapter_names(original: Method) -> Method:
    """Return `original`, a model's forward, with the keyword `adapter_names`: one name per sample."""
    return _with_adapter_names(original, run_forward)


def generate_with_adapter_names(original: Method) -> Method:
    """Return `original`, a model's generate, with the keyword `adapter_names`: one name per sample."""
    return _with_adapter_names(original, run_generate)


def _with_adapter_names(original: Method, run: Run) -> Method:
    @functools.wraps(original)
    def method(model: Any, *args: Any, adapter_names: Any = None, **kwargs: Any) -> Any:
        if adapter_names is not None:
            return _uncompiled(_call)(original, run, model, args, kwargs, adapter_names)
        if _is_call_of_its_own(model):
            with select(None):
                return original(model, *args, **kwargs)
        return original(model, *args, **kwargs)

    return method


def call_with_adapter_names() -> Method:
    """Return how a PEFT model is called: names are seen before dynamo, or a forward of the base's, sees them."""
    module = torch.nn.Module

    def call(model: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("adapter_names") is None or is_compiling():
            return module.__call__(model, *args, **kwargs)
        if can_serve() and is_compiled(model):
            return _through_graph(model, module.__call__, args, kwargs)
        return module.__call__(heeding_names(model), *args, **kwargs)

    return call


def compiled_call_with_adapter_names(original: Method) -> Method:
    """Return `original`, how what torch.compile makes of a model is called, with `adapter_names`."""
    module = torch.nn.Module

    @functools.wraps(original)
    def call(compiled: Any, *args: Any, **kwargs: Any) -> Any:
        graphs = selected_graphs()
        if graphs is Graphs.NONE:
            return module.__call__(compiled, *args, **kwargs)  # upstream's own would warn of hooks, which a trace has
        model = compiled._orig_mod
        if graphs is Graphs.OPERATORS or kwargs.get("adapter_names") is None or not _takes_names(model):
            return original(compiled, *args, **kwargs)

        return _through_graph(model, lambda _, *args, **kwargs: call(compiled, *args, **kwargs), args, kwargs)

    return call


def _is_call_of_its_own(model: Any) -> bool:
    """Whether a call without names, while another call runs, is one from its hooks.

    A PEFT model inside of the one that was called is a part of it, whose layers that call has asked for.
    """
    selection = selected()
    if selection is None or _is_entry(model):
        return False
    return model is selection.model or all(module is not model for _, module in named_modules(selection.model))


def _is_entry(model: Any) -> bool:
    """Whether this is the call by which the running mixed call enters `model`; the next one is not."""
    if _ENTERED.get() is not model:
        return False
    _ENTERED.set(None)
    return True


def _takes_names(model: Any) -> bool:
    import peft

    return isinstance(model, (peft.PeftModel, peft.PeftMixedModel)) or has_adapters(model)


def _through_graph(model: Any, call: Method, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Run a mixed call on `model`, which `call` runs compiled, as a whole."""
    names = kwargs["adapter_names"]
    given = {key: value for key, value in kwargs.items() if key != "adapter_names"}

    @functools.wraps(type(model).forward)
    def forward(model: Any, *args: Any, **kwargs: Any) -> Any:
        token = _ENTERED.set(model)
        try:
            return call(model, *args, **kwargs)
        finally:
            _ENTERED.reset(token)

    forward.is_compiled = True  # type: ignore[attr-defined]
    return _uncompiled(_call)(forward, run_forward, model, args, given, names)


def own_call_with_adapter_names() -> Method:
    """Return how a model of transformers is called, with `adapter_names` for one that has adapters of its own.

    A call without names, the model's own from within its generate among them, goes straight through, under whatever the
    running call has selected.
    """
    module = torch.nn.Module

    def call(model: Any, *args: Any, adapter_names: Any = None, **kwargs: Any) -> Any:
        if adapter_names is None:
            return module.__call__(model, *args, **kwargs)  # looked up at each call, since torch.fx patches it
        if not has_adapters(model) and "adapter_names" in parameter_names(model.forward):
            return module.__call__(model, *args, adapter_names=adapter_names, **kwargs)  # a keyword of its own
        return _own(module.__call__, run_forward, model, args, kwargs, adapter_names)

    return call


def own_generate_with_adapter_names(original: Method) -> Method:
    """Return `original`, a generate of transformers, with `adapter_names` for a model that has adapters of its own."""

    @functools.wraps(original)
    def generate(model: Any, *args: Any, adapter_names: Any = None, **kwargs: Any) -> Any:
        if adapter_names is None:
            return original(model, *args, **kwargs)
        return _own(original, run_generate, model, args, kwargs, adapter_names)

    generate.takes_adapter_names = True  # type: ignore[attr-defined]
    return generate


def method_without_adapter_names(original: Method) -> Method:
    """Return `original`, a method of transformers that drops keywords which it does not know, refusing `adapter_names`.

    Raises:
        RefusedError: they are given.
    """

    @functools.wraps(original)
    def method(model: Any, *args: Any, adapter_names: Any = None, **kwargs: Any) -> Any:
        if adapter_names is not None:
            raise RefusedError(
                f"adapter_names is given to {original.__name__}, but should not be: it batches requests as they come, "
                "and would give every one the active adapter. Call generate(…, adapter_names=[…]), or "
                f"{original.__name__} without names for each adapter in turn"
            )
        return original(model, *args, **kwargs)

    return method


def _own(original: Method, run: Run, model: Any, args: Sequence[Any], kwargs: Mapping[str, Any], names: Any) -> Any:
    if not has_adapters(model):
        raise AdapterNamesError(_no_adapters(model))
    return _uncompiled(_call)(original, run, model, args, kwargs, names)


def _no_adapters(model: Any) -> str:
    """Say what a model without adapters should have before it is given names."""
    inside = [name for name, module in model.named_modules() if has_adapters(module)]
    where = f"; its part {inside[0]!r} has, and takes adapter_names itself" if inside else ""
    return (
        f"adapter_names is given, but {type(model).__name__} should have adapters for that{where}. Add some with "
        "model.add_adapter(config, name), or with peft.get_peft_model(model, config)"
    )


def _call(original: Method, run: Run, model: Any, args: Sequence[Any], kwargs: Mapping[str, Any], names: Any) -> Any:
    check_not_recorded()
    ranks = ranks_of(model)
    prepare = functools.partial(_prepared, original, run, model, args, kwargs, names, ranks)
    start = prepare() if ranks is None else ranks.in_step(prepare, errors=(Exception,))
    return start()


def _prepared(
    original: Method, run: Run, model: Any, args: Sequence[Any], kwargs: Mapping[str, Any], names: Any, ranks: Any
) -> Callable[[], Any]:
    """Check a call and return what runs it."""
    batch = resolve(model, names)
    if getattr(original, "is_compiled", False):
        batch = replace(batch, is_compiled=True)
    if batch.is_training:
        check_training(batch, generates=run is run_generate)
    given = dict(kwargs)
    owners = given.pop("owners", None)
    per_sample = run is run_forward and given.pop("per_sample", False)
    generators = given.pop("generators", None) if run is run_generate else None
    inputs = Inputs.of(args, given, _signature(model, original, run))
    owners = check_owners({} if owners is None else owners, batch, inputs)
    check_sample_count(batch, inputs, owners)
    own = () if generators is None else check_generators(generators, len(batch.names), _device(inputs))
    function = method_of_model(model, original, "forward" if run is run_forward else "generate")
    if ranks is not None:
        ranks.check_uncompiled(batch)
        if ranks.by_data:
            check_together(generates=run is run_generate, per_sample=bool(per_sample))
    run = run_per_sample if per_sample else run
    return functools.partial(_start, run, function, batch, inputs, owners, ranks, own)


def _start(
    run: Run,
    function: Callable[..., Any],
    batch: MixedBatch,
    inputs: Inputs,
    owners: Owners,
    ranks: Any,
    generators: Generators,
) -> Any:
    """Run a call that was checked, leaving no trace where it fails."""
    if ranks is not None:
        ranks.expect_alike(batch, inputs)
    traceless = failure_leaves_no_trace(batch.model, batch.names, inputs.caches())
    with drawing_from(generators), _exclusive(batch), traceless, _unchanged(batch):
        if run is run_per_sample:
            return run_per_sample(function, batch, inputs, owners)
        if ranks is not None and ranks.by_data:
            return run_together(function, batch, inputs, owners, ranks)
        if len(batch.groups) > 1:
            return run(function, batch, inputs, owners)
        if run is run_forward:
            return run_one_adapter(function, batch, inputs, owners)
        return run_plain(function, batch, inputs)


def _signature(model: Any, original: Method, run: Run) -> Sequence[str]:
    """Return the names of positional arguments, from the model that PEFT hands them to."""
    names = parameter_names(original)[1:]
    if names:
        return names
    base = base_model_of(model)
    return parameter_names(base.forward if run is run_forward else base.generate)


def _device(inputs: Inputs) -> Any:
    return next((tensor.device for tensor in inputs.tensors().values()), "cpu")


@contextmanager
def _unchanged(batch: MixedBatch) -> Iterator[None]:
    """Check that the adapters of a call are there to its end: layers go on with the base where one is gone.

    Raises:
        RefusedError: another thread deleted one, or took the shim away.
    """
    before, routed = _adapters_of(batch), _is_routed(batch)
    yield
    gone = [name for name, config in _adapters_of(batch).items() if config is not before[name]]
    if gone:
        raise RefusedError(
            f"adapters {gone} were deleted or loaded anew while the call ran, but should not be: some of their rows "
            "may be the base model's. Call again, and delete an adapter when no call uses it"
        )
    if routed and not _is_routed(batch):
        raise RefusedError(
            "shim.uninstall() was called while the call ran, so that some of its rows may be the active adapter's. "
            "Call it when no call runs"
        )


def _adapters_of(batch: MixedBatch) -> Dict[str, Any]:
    return {group.adapter: batch.model.peft_config.get(group.adapter) for group in batch.groups}


def _is_routed(batch: MixedBatch) -> bool:
    """Whether the shim is on the first layer: it is on all, or on none."""
    return all(is_routed(layer) for _, layer in batch.layers[:1])


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
