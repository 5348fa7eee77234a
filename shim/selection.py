"""Which adapter the running call has chosen: call-local, never written on a module.

PEFT's layers ask three properties which adapter to use: `active_adapter`, `active_adapters` and
`disable_adapters`. While a call selects an adapter these answer from a `ContextVar`, so that one mechanism
serves every tuner, threads and asyncio tasks do not see each other, and nothing is left behind.
"""

from __future__ import annotations

import ctypes
import functools
import types
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Tuple

import torch

from shim.errors import RefusedError

BASE = "__base__"


class Route:
    """What runs the adapted layers of a call in place of their own forward."""

    def run_layer(self, layer: Any, forward: Callable[..., Any], args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Any:
        """Return the output of `layer`, whose own forward is `forward`, unbound."""
        raise NotImplementedError

    def asked(self, layer: Any) -> None:
        """Take note that `layer` was asked for its adapter outside of its own forward."""

    def again(self) -> Optional[Callable[[], Route]]:
        """Return what makes a route for the layer calls from here on, to run them once more after the call.

        None for a call without gradients, of which nothing is run again.
        """
        return None


@dataclass(frozen=True)
class Selection:
    """One adapter, or `__base__`, chosen for the layers of one model for the length of a call.

    `holds` maps the id of each adapter layer of `model` to whether that layer has weights for `adapter`. A
    layer that is not in it belongs to another model (an assistant, a reward model) and keeps its own state.
    `route`, where there is one, runs the layers in place of their own forward: each row under its own adapter.
    `trains`: whether the call is one of training, with gradients.
    """

    model: Any
    adapter: str
    holds: Mapping[int, bool]
    route: Optional[Route] = None
    trains: bool = False


_CURRENT: ContextVar[Optional[Selection]] = ContextVar("shim_selection", default=None)


@contextmanager
def select(selection: Optional[Selection]) -> Iterator[None]:
    """Let the layers of `selection.model` answer from `selection` inside the block; None lifts it."""
    token = _CURRENT.set(selection)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def is_selected() -> bool:
    """Whether the running call has a selection."""
    return not _is_compiling() and _CURRENT.get() is not None


def selected() -> Optional[Selection]:
    """Return the selection of the running call; None where it has none."""
    return None if _is_compiling() else _CURRENT.get()


def selected_adapter() -> Optional[str]:
    """Return the adapter that the running call has selected; None where it has no selection."""
    selection = _CURRENT.get()
    return None if selection is None else selection.adapter


def routed(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return `original`, a layer's forward, which leaves the work to the route of the running call, if any."""

    @functools.wraps(original)
    def forward(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if not _is_compiling():
            selection = _CURRENT.get()
            if selection is not None and id(layer) in selection.holds:
                if selection.trains and not torch.is_grad_enabled():
                    _refuse_without_gradients(layer)
                if selection.route is not None:
                    return selection.route.run_layer(layer, original, args, kwargs)
        return original(layer, *args, **kwargs)

    forward.is_routed = True  # type: ignore[attr-defined]
    return forward


def _refuse_without_gradients(layer: Any) -> None:
    """Refuse a layer that a training call runs without gradients, but for torch's own checkpoints (`recompute`).

    Another library's checkpoint would run it again in the backward pass, where the call's names are not known.

    Raises:
        RefusedError: always.
    """
    raise RefusedError(
        f"a {type(layer).__name__} with adapters is run under torch.no_grad() inside a training call: a part that "
        "cannot train, or a checkpoint other than torch.utils.checkpoint, which would forget the names. Target no "
        "layers there, checkpoint by torch.utils.checkpoint, or run one adapter a call without names"
    )


def is_routed_by(route: Route) -> bool:
    """Whether the running call's layers are run by `route`."""
    selection = None if _is_compiling() else _CURRENT.get()
    return selection is not None and selection.route is route


def is_routed(layer: Any) -> bool:
    """Whether a call's route runs `layer`: its class was there when the shim was installed, and nobody took over.

    accelerate does not take over: its hooks (`dispatch_model`, offload) call the forward that they found.
    """
    state = vars(layer)
    forward = state.get("forward")
    if forward is None:
        return getattr(type(layer).forward, "is_routed", False)
    if getattr(forward, "__wrapped__", forward) is state.get("_old_forward"):
        forward = state["_old_forward"]
    # A method, not a function of somebody else's that `functools.wraps` gave the mark to.
    return isinstance(forward, types.MethodType) and getattr(forward.__func__, "is_routed", False)


def layer_property(original: property, answer: Callable[[Selection, bool], Any]) -> property:
    """Return a property that gives `answer(selection, holds)` during a call, and `original`'s value else."""

    stored: Any = original.fget

    def get(layer: Any) -> Any:
        # torch.compile traces plain calls only (a mixed call through a compiled module is refused), and a
        # ContextVar would break its graph.
        if not _is_compiling():
            selection = _CURRENT.get()
            if selection is not None:
                holds = selection.holds.get(id(layer))
                if holds is not None:
                    if selection.route is not None:
                        selection.route.asked(layer)
                    return answer(selection, holds)
        return stored(layer)

    return property(get, original.fset, original.fdel, original.__doc__)


def answer_active_adapter(selection: Selection, holds: bool) -> Any:
    """The adapter's name, or no name where the layer has no weights for it."""
    return selection.adapter if holds else []


def answer_active_adapters(selection: Selection, holds: bool) -> List[str]:
    """The adapter's name in a list, empty where the layer has no weights for it."""
    return [selection.adapter] if holds else []


def answer_disable_adapters(selection: Selection, holds: bool) -> bool:
    """True where the row's answer is the base layer's."""
    return not holds


ANSWERS: Dict[str, Callable[[Selection, bool], Any]] = {
    "active_adapter": answer_active_adapter,
    "active_adapters": answer_active_adapters,
    "disable_adapters": answer_disable_adapters,
}


def model_active_adapter() -> property:
    """Return `PeftModel.active_adapter` as a property: the call's adapter during a call, else the stored one.

    PEFT picks the configuration of a call (task type, aLoRA's invocation tokens) by this attribute. The
    stored value stays where PEFT puts it, in the instance's `__dict__`, so that pickle, deepcopy and
    uninstalling see nothing new.
    """
    return property(_read_by_dynamo(_get_active_adapter), _set_active_adapter, _delete_active_adapter)


def _get_active_adapter(model: Any) -> Any:
    if not _is_compiling():
        selection = _CURRENT.get()
        if selection is not None and selection.model is model and selection.adapter != BASE:
            return selection.adapter
    try:
        return vars(model)["active_adapter"]
    except KeyError:
        raise AttributeError("active_adapter") from None


def _set_active_adapter(model: Any, value: Any) -> None:
    vars(model)["active_adapter"] = value


def _delete_active_adapter(model: Any) -> None:
    try:
        del vars(model)["active_adapter"]
    except KeyError:
        raise AttributeError("active_adapter") from None


def _read_by_dynamo(getter: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return `getter` as torch.compile takes it for written in C: it reads the attribute and guards its value.

    Traced, `vars(model)["active_adapter"]` finds the property again: torch 2.8 breaks the graph, 2.11 recurses.
    """
    # Breakpoint: pytorch/pytorch#134630, torch 2.5 or 2.6: dynamo reads the properties of pybind so, of the same kind.
    utilities = getattr(getattr(torch._C, "_dynamo", None), "utils", None)
    if not hasattr(utilities, "is_instancemethod"):
        return getter
    instance_method = ctypes.pythonapi.PyInstanceMethod_New
    instance_method.restype, instance_method.argtypes = ctypes.py_object, [ctypes.py_object]
    return instance_method(getter)  # type: ignore[no-any-return]


def _compiling_test() -> Callable[[], bool]:
    """Return what tells whether torch.compile is tracing; dynamo takes it for a constant."""
    # torch.compiler.is_compiling is absent in 2.2 and there in 2.4; before, dynamo has its own.
    # Breakpoint: pytorch/pytorch#90329, torch 2.0
    if hasattr(torch, "compiler") and hasattr(torch.compiler, "is_compiling"):
        return torch.compiler.is_compiling
    if hasattr(torch, "_dynamo"):
        return torch._dynamo.is_compiling
    return bool


_is_compiling = _compiling_test()


def is_compiling() -> bool:
    """Whether torch.compile is tracing, or torch.export, which runs Python as it is while layers ask for nothing."""
    return _is_compiling()
