"""What a layer may be given, and may do: running it for some of its rows, or once for each adapter, must be running it.

Shown while it is traced: of what changes in a layer's forward besides its output, and of the rows of a layer whose
forward is not torch's own, nothing is believed.
"""

from __future__ import annotations

import functools
import types
from typing import AbstractSet, Any, Callable, Iterator, Mapping, Sequence, Tuple

import torch

from shim.errors import Unroutable
from shim.modules import named_buffers
from shim.quantised import quantised_layers
from shim.routing.layers import Kind, tensors_of
from shim.routing.plan import PlannedCall
from shim.routing.storage import address
from shim.routing.tracer import Tracer
from shim.routing.tree import VALUES

# Each row of their output is made of that row of their input.
_BY_ROW = (torch.nn.Linear, torch.nn.Embedding, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)

# What a forward may be given to call. Some caches may be called, too: those of transformers 4.45 to 4.47 are modules.
_CODE = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, functools.partial, type)


def check_arguments(call: PlannedCall, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Check that a layer is given nothing but its input, tensors, and values that no forward changes.

    A cache is filled by every run, and whose the parts of a list are is not known.

    Raises:
        Unroutable: it is given something else.
    """
    for key, value in _given(args, kwargs):
        leaves = _leaves(value) if call.kind is Kind.OUTPUT else [value]
        wrong = [leaf for leaf in leaves if not isinstance(leaf, (torch.Tensor, *VALUES, *_CODE))]
        if wrong:
            raise Unroutable(
                f"{call.layer} is called with a {type(wrong[0]).__name__} ({key!r}), of which it cannot be told whose "
                "its parts are, nor whether the layer changes it"
            )


def check_changes(
    call: PlannedCall, layer: Any, args: Sequence[Any], kwargs: Mapping[str, Any], written: AbstractSet[int]
) -> None:
    """Check that a layer's forward, which wrote to the memory at `written`, changed nothing that outlives it.

    Raises:
        Unroutable: it did, so that a run for another adapter would meet something else.
    """
    if not written:
        return
    outliving = [(f"its argument {key!r}", leaf) for key, value in _given(args, kwargs) for leaf in _leaves(value)]
    outliving += [(f"its buffer {name!r}", buffer) for name, buffer in named_buffers(layer)]
    for what, tensor in outliving:
        if isinstance(tensor, torch.Tensor) and address(tensor) in written:
            raise Unroutable(f"{call.layer} changes {what} in place, and would for each adapter anew")


def check_rows(
    call: PlannedCall, layer: Any, forward: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> None:
    """Check that each row of a layer's output is made of that row of its input alone.

    Known of torch's own forwards. Any other is run once more, with each row of its input followed as a sample.

    Raises:
        Unroutable: it is not, or it cannot be told.
    """
    base = layer.get_base_layer()
    if _is_known(getattr(base, "_orig_mod", base)):
        return
    x = args[0]
    shape = x.shape[: {Kind.EMBEDDING: x.dim(), Kind.CONVOLUTION: 1}.get(call.kind, x.dim() - 1)]
    what = f"{call.layer} is a {type(base).__name__} with a forward, or hooks, of its own"
    tracer = Tracer(max(shape.numel(), 1))
    probe = x.detach().clone(memory_format=torch.contiguous_format)
    rows = torch.arange(1, shape.numel() + 1, dtype=torch.int32, device=x.device).view(shape)
    wide = rows.view(*shape, *[1] * (x.dim() - len(shape)))
    tracer.store.write(probe, wide.expand(probe.shape), tainted=True)
    with tracer.noting_writes() as written, tracer:
        output = forward(layer, probe, *args[1:], **kwargs)
    check_changes(call, layer, (probe, *args[1:]), kwargs, written)
    if tracer.obstacles:
        raise Unroutable(f"{what}, whose rows cannot be told: {tracer.obstacles[0]}")
    for _, tensor in tensors_of(output):
        ids = tracer.store.ids(tensor)
        if tensor.shape[: len(shape)] != shape or not _are_own(ids, rows):
            by = f": mixed by {tracer.mixers[0]}" if tracer.mixers else ""
            raise Unroutable(f"{what}, which does not make each row of its output of that row of its input alone{by}")


def _are_own(ids: Any, rows: torch.Tensor) -> bool:
    """Whether the elements of every row have no other owner than their own row."""
    if ids is None:
        return True
    own = rows.view(*rows.shape, *[1] * (ids.dim() - rows.dim()))
    return bool(((ids == own) | (ids == 0)).all())


def _is_known(base: Any) -> bool:
    """Whether the rows of a base layer are known to be its own, by its forward, or else answered for elsewhere.

    Quantised layers are tried (`shim.quantised`), ranks make shards what they are, and accelerate only moves weights.
    """
    held = vars(base)
    if "_hf_hook" in held or any(True for _ in quantised_layers(base)):
        return True
    if any(hasattr(parameter, "device_mesh") for parameter in base.parameters()):
        return True
    if "forward" in held or held["_forward_hooks"] or held["_forward_pre_hooks"]:
        return False
    cls = type(base)
    if (cls.__module__, cls.__name__) == ("transformers.pytorch_utils", "Conv1D"):
        return True
    return any(cls.forward is kind.forward and _convolves_as(cls, kind) for kind in _BY_ROW)


def _convolves_as(cls: Any, kind: Any) -> bool:
    return getattr(cls, "_conv_forward", None) is getattr(kind, "_conv_forward", None)


def _given(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Tuple[Any, Any]]:
    yield from enumerate(args)
    yield from kwargs.items()


def _leaves(value: Any) -> Iterator[Any]:
    """Yield what is in nested lists, tuples and dicts; a cache is one thing here, which `tree.leaves` goes into."""
    if isinstance(value, (list, tuple, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _leaves(part)
    else:
        yield value
