"""An adapted layer as one operator, which torch.compile takes as it is: one graph for every list of names.

`shim::adapted_layer` runs the layer's forward when the graph runs, so that it asks the running call for its adapters,
and a plain call that meets it gets what the layer itself would give. It may come in any order, and be left out or
joined with one like it: who runs a mixed call counts (`routing.graph_replay`).
"""

from __future__ import annotations

import itertools
import threading
import weakref
from functools import lru_cache
from typing import Any, Dict, Hashable, Iterable, List, Sequence, Tuple

import torch

from shim.errors import Unroutable
from shim.graphs import Outside
from shim.modules import base_layer_of

_Promise = Tuple[Tuple[int, ...], torch.dtype]
_Known = Tuple[Tuple[torch.Tensor, int], Hashable]

_ATTRIBUTE = "_shim_operator"
_LOCK = threading.Lock()
_NUMBERS = itertools.count()
_LAYERS: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
_KNOWN: weakref.WeakKeyDictionary[Any, _Known] = weakref.WeakKeyDictionary()
_KINDS: Dict[Hashable, int] = {}
_OF_KIND: Dict[int, weakref.WeakSet[Any]] = {}
_PROMISES: Dict[Hashable, _Promise] = {}


def prepare(layers: Iterable[Any]) -> None:
    """Give each layer the two things that the operator is called with: which layer it is, and what its output is like.

    Which one is a tensor, so that layers that are alike share a graph. A copy of a layer is told from it here, and one
    that was cast or moved from what it was.

    Raises:
        Unroutable: the output of a layer cannot be known without running it.
    """
    with _LOCK:
        _define()
    for layer in layers:
        known = _KNOWN.get(layer)
        if known is None or known[1] != _state_of(layer):
            with _LOCK:
                known = _KNOWN[layer] = (_new(layer), _state_of(layer))
        if vars(layer).get(_ATTRIBUTE) is not known[0]:
            vars(layer)[_ATTRIBUTE] = known[0]


def call(layer: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> torch.Tensor:
    """Return the operator's output for a call of `layer`; traced by dynamo.

    Raises:
        Unroutable: an argument is no tensor.
    """
    for value in (*args, *kwargs.values()):
        if not isinstance(value, torch.Tensor):
            raise Unroutable("an adapted layer takes what is no tensor")
    which, kind = layer._shim_operator
    output: torch.Tensor = torch.ops.shim.adapted_layer([*args, *kwargs.values()], which, kind, ",".join(kwargs))
    return output


@lru_cache(maxsize=None)
def _define() -> torch.library.Library:
    """Define the operator, once in a process; called under `_LOCK`."""
    library = torch.library.Library("shim", "DEF")
    # A graph of CUDA would replay the kernels of one list of names.
    # Breakpoint: torch 2.8: the tag; before, a graph with a CPU tensor among its inputs is none of CUDA's.
    tags = (torch.Tag.cudagraph_unsafe,) if hasattr(torch.Tag, "cudagraph_unsafe") else ()
    library.define("adapted_layer(Tensor[] tensors, Tensor which, int kind, str names) -> Tensor", tags=tags)
    library.impl("adapted_layer", _run, "CompositeExplicitAutograd")
    torch.library.register_fake("shim::adapted_layer", _fake, lib=library)
    return library


def _run(tensors: List[torch.Tensor], which: torch.Tensor, kind: int, names: str) -> torch.Tensor:
    """Run the layer.

    Raises:
        Unroutable: gradients are enabled, which would not reach the adapters, or the output is not what the graph was
            promised.
    """
    layer = _LAYERS.get(int(which))
    if layer is None:
        raise Unroutable("the layer of a graph is gone")
    if torch.is_grad_enabled():
        raise Unroutable("an operator of a mixed call was met with gradients enabled")
    args, kwargs = _arguments(tensors, names)
    with Outside():
        output = type(layer).forward(layer, *args, **kwargs)
        shape, dtype = _promise(kind, tensors, names)
        if not isinstance(output, torch.Tensor) or output.shape != shape or output.dtype is not dtype:
            raise Unroutable(f"the output of a {type(layer).__name__} is not {dtype} of shape {shape} as was promised")
        inputs = {tensor.untyped_storage().data_ptr() for tensor in tensors}
        return output.clone() if output.untyped_storage().data_ptr() in inputs else output.contiguous()


def _fake(tensors: List[torch.Tensor], which: torch.Tensor, kind: int, names: str) -> torch.Tensor:
    like = _base_output(kind, tensors, names)
    return torch.empty(like.shape, dtype=like.dtype, device=like.device)


def _promise(kind: int, tensors: Sequence[torch.Tensor], names: str) -> _Promise:
    """Return the shape and dtype that the graph was told for tensors like these."""
    key = (kind, names, *((t.shape, t.dtype, t.device) for t in tensors))
    promise = _PROMISES.get(key)
    if promise is None:
        from torch._subclasses.fake_tensor import FakeTensorMode

        with FakeTensorMode(), torch.no_grad():
            like = _base_output(kind, [torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in tensors], names)
        if len(_PROMISES) > 4096:
            _PROMISES.clear()
        promise = _PROMISES[key] = (tuple(like.shape), like.dtype)
    return promise


def _base_output(kind: int, tensors: Sequence[torch.Tensor], names: str) -> torch.Tensor:
    """Return what the base layer gives for fake `tensors`, whose mode is active.

    Raises:
        Unroutable: something else than a tensor, or what autocast would make of it: graphs run without it.
    """
    layer = next(iter(_OF_KIND[kind]), None)
    if layer is None or torch._C._is_any_autocast_enabled():
        raise Unroutable("a layer under autocast, or one that is gone, has no output that is known ahead")
    args, kwargs = _arguments(tensors, names)
    output = _twin(_base_of(layer))(*args, **kwargs)
    if not isinstance(output, torch.Tensor):
        raise Unroutable(f"a {type(layer).__name__} returns {type(output).__name__}, not a tensor")
    return output


def _arguments(tensors: Sequence[torch.Tensor], names: str) -> Tuple[Sequence[torch.Tensor], Dict[str, torch.Tensor]]:
    keywords = names.split(",") if names else []
    count = len(tensors) - len(keywords)
    return tensors[:count], dict(zip(keywords, tensors[count:]))


def _twin(module: Any) -> Any:
    """Return a copy of `module` without hooks whose weights are made anew, fake where that mode is active."""
    twin = object.__new__(type(module))
    state = {key: {} if key.endswith("_hooks") else value for key, value in vars(module).items()}
    for held in ("_parameters", "_buffers"):
        state[held] = {
            name: None if value is None else torch.empty(value.shape, dtype=value.dtype, device=value.device)
            for name, value in state[held].items()
        }
    children = state["_modules"].items()
    state["_modules"] = {name: None if child is None else _twin(child) for name, child in children}
    vars(twin).update(state)
    return twin


def _base_of(layer: Any) -> Any:
    """Return the module whose output the layer's is like."""
    base = base_layer_of(layer)
    if base is None:
        return layer.original_module
    return base if base_layer_of(base) is None else _base_of(base)


def _state_of(layer: Any) -> Hashable:
    """Return what a base layer's output may hang on that changes when it is cast, moved or made larger."""
    held = vars(_base_of(layer))["_parameters"].values()
    return tuple((value.shape, value.dtype, value.device) for value in held if value is not None)


def _check_plain(base: Any) -> None:
    """Check that a copy of `base` can be run on fakes, and that running it changes nothing of `base`.

    Raises:
        Unroutable: a part is run by somebody's hook, as accelerate's, or its weights are more than tensors of numbers.
    """
    for name, module in base.named_modules():
        where = f"{type(base).__name__}{'.' if name else ''}{name}"
        if "forward" in vars(module):
            raise Unroutable(f"the forward of a {where} was replaced")
        for value in (*vars(module)["_parameters"].values(), *vars(module)["_buffers"].values()):
            if value is None:
                continue
            plain = type(value) in (torch.Tensor, torch.nn.Parameter)
            if not plain or (value.dim() > 1 and not value.is_floating_point()):
                raise Unroutable(f"the weights of a {where} are quantised, or of a kind that is not known")


def _new(layer: Any) -> Tuple[torch.Tensor, int]:
    base = _base_of(layer)
    _check_plain(base)
    for alike in _OF_KIND.values():
        alike.discard(layer)
    number = next(_NUMBERS)
    _LAYERS[number] = layer
    held = (*base.named_parameters(), *base.named_buffers())
    about = (type(layer), type(base), repr(base), tuple((name, v.shape, v.dtype, v.device) for name, v in held))
    kind = _KINDS.setdefault(about, len(_KINDS))
    _OF_KIND.setdefault(kind, weakref.WeakSet()).add(layer)
    with torch.inference_mode(False):
        return torch.tensor(number, device="cpu"), kind
