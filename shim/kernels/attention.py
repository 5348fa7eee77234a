"""`lora.MultiheadAttention` run on a copy, so that what it merges while it runs are nobody's weights.

PEFT's layer has no product of its own: it puts merged weights on its base layer, runs that, and subtracts them again.
Another thread sees them meanwhile, and rounding stays. In a call with names its forward, as the installed PEFT has it,
runs on a copy of the layer that holds copies of the weights: what it makes is what PEFT makes of those rows, to the bit
(huggingface/peft#1324; all versions that have it, 0.15 to 0.21, add the delta of `out_proj` twice), and it writes on
the copy only. Gradients reach the layer's own weights. A call without names is PEFT's own.
"""

from __future__ import annotations

import functools
import threading
import weakref
from contextlib import ExitStack, contextmanager
from typing import Any, Callable, Iterable, Iterator, Optional

import torch

from shim.errors import RefusedError
from shim.modules import is_compiled
from shim.selection import is_compiling, is_selected, routed, selected

_LOCK = threading.Lock()
_LOCKS: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def is_attention(layer: Any) -> bool:
    """Whether `layer` is PEFT's `lora.MultiheadAttention`, or of a class that is called so."""
    return type(layer).__name__ == "MultiheadAttention"


def routed_attention(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return `original`, the forward of a `lora.MultiheadAttention`, as `selection.routed` does, run on copies."""
    inner = routed(_on_a_copy(original))

    @functools.wraps(inner)
    def forward(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if not args and "query" in kwargs and is_selected():
            args = (kwargs.pop("query"),)  # a route finds the rows in the first argument
        return inner(layer, *args, **kwargs)

    forward.__wrapped__ = original  # what is displaced, as of every patch
    return forward


def one_at_a_time(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return `original`, a method that changes a layer's weights for a moment: no copy is made in its midst."""

    @functools.wraps(original)
    def method(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if is_compiling():
            return original(layer, *args, **kwargs)
        with _lock_of(layer):
            return original(layer, *args, **kwargs)

    return method


@contextmanager
def at_rest(layers: Iterable[Any]) -> Iterator[None]:
    """Let none of `layers` that is an attention change its weights inside the block."""
    with ExitStack() as stack:
        for layer in layers:
            if is_attention(layer):
                stack.enter_context(_lock_of(layer))
        yield


def check_attention(name: str, layer: Any, around: Any) -> None:
    """Check that `layer`, a child of the module `around`, can be run on a copy, and is run at all.

    Raises:
        RefusedError: its parts are run by somebody else, or torch's encoder goes past it.
    """
    base = layer.get_base_layer()
    for part in (base, base.out_proj, base.out_proj.get_base_layer()):
        if "forward" in vars(part) or is_compiled(part):
            raise RefusedError(
                f"the forward of the {type(part).__name__} in {name} was replaced (by a hook of accelerate, or "
                "torch.compile), so that a copy with merged weights cannot be run. Undo that, or run one adapter a "
                "call without names"
            )
    if _is_gone_past(around, layer):
        raise RefusedError(
            f"{name} lies in a torch.nn.TransformerEncoderLayer in evaluation mode, whose fast path reads the base "
            f"weights past the adapters, so that PEFT silently leaves them out. {_way_out(name)}"
        )


def _is_gone_past(around: Any, layer: Any) -> bool:
    """Whether torch's encoder layer may take its fast path: one kernel, given the weights that the attention holds.

    Where only the call would tell (gradients, autocast, hooks) it may.
    """
    encoder = torch.nn.TransformerEncoderLayer
    if not isinstance(around, encoder) or type(around).forward is not encoder.forward or around.training:
        return False
    # Breakpoint: torch 2.0 or 2.1: the switch, whose name in torch.backends is `mha`.
    enabled = getattr(getattr(torch.backends, "mha", None), "get_fastpath_enabled", lambda: True)()
    fits = layer.batch_first and layer.in_proj_bias is not None and layer.num_heads % 2 == 0
    return bool(enabled and fits and around.activation_relu_or_gelu and around.norm1.eps == around.norm2.eps)


def _way_out(name: str) -> str:
    if hasattr(torch.backends, "mha"):
        return "Call torch.backends.mha.set_fastpath_enabled(False)"
    return f"Set activation_relu_or_gelu = 0 on {name.rpartition('.')[0]}"


def _on_a_copy(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return `original`, which in a call with names runs on a copy of its layer."""

    @functools.wraps(original)
    def forward(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if is_compiling():
            return original(layer, *args, **kwargs)
        selection = selected()
        with _lock_of(layer):
            if selection is None or id(layer) not in selection.holds:
                return original(layer, *args, **kwargs)
            copy = _copy_of(layer)
        return original(copy, *args, **kwargs)

    return forward


def _lock_of(layer: Any) -> Any:
    """Return the lock that is held while the weights of `layer` are not its own, or are copied."""
    lock = _LOCKS.get(layer)
    if lock is None:
        with _LOCK:
            lock = _LOCKS.setdefault(layer, threading.RLock())
    return lock


def _copy_of(layer: Any) -> Any:
    """Return a copy of `layer` that has the selected adapter active, or none, whatever is selected when it runs."""
    adapter: Optional[str] = None if layer.disable_adapters else next(iter(layer.active_adapters), None)
    copy = _copied(layer, adapter)
    vars(copy)["unmerge"] = _stay_merged  # nobody sees the copy again
    return copy


def _copied(module: Any, adapter: Optional[str]) -> Any:
    """Return a copy of a module and of those inside; with `adapter`, of its weights too and of no other adapter's."""
    copy = object.__new__(type(module))
    state = dict(vars(module))
    for held in ("_parameters", "_buffers"):
        # PEFT adds to biases in place, and writes the factors in half precision; the base alone writes nothing.
        state[held] = {
            name: value if value is None or adapter is None else value.clone() for name, value in state[held].items()
        }
    children = state["_modules"].items()
    if isinstance(module, torch.nn.ModuleDict):
        children = [(name, child) for name, child in children if name == adapter]
    state["_modules"] = {name: None if child is None else _copied(child, adapter) for name, child in children}
    if "merged_adapters" in state:
        state.update(merged_adapters=[], _active_adapter=adapter or [], _disable_adapters=adapter is None)
    vars(copy).update(state)
    return copy


def _stay_merged() -> None:
    """Take the place of `unmerge`."""
