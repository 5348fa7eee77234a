"""Which adapter the running call has chosen: call-local, never written on a module.

PEFT's layers ask three properties which adapter to use: `active_adapter`, `active_adapters` and
`disable_adapters`. While a call selects an adapter these answer from a `ContextVar`, so that one mechanism
serves every tuner, threads and asyncio tasks do not see each other, and nothing is left behind.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional

import torch

BASE = "__base__"


@dataclass(frozen=True)
class Selection:
    """One adapter, or `__base__`, chosen for the layers of one model for the length of a call.

    `holds` maps the id of each adapter layer of `model` to whether that layer has weights for `adapter`. A
    layer that is not in it belongs to another model (an assistant, a reward model) and keeps its own state.
    """

    model: Any
    adapter: str
    holds: Mapping[int, bool]


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


class ModelActiveAdapter:
    """`PeftModel.active_adapter` as a data descriptor: the call's adapter during a call, else the stored one.

    PEFT picks the configuration of a call (task type, aLoRA's invocation tokens) by this attribute. The
    stored value stays where PEFT puts it, in the instance's `__dict__`, so that pickle, deepcopy and
    uninstalling see nothing new.
    """

    def __get__(self, model: Any, owner: Any = None) -> Any:
        """Return the adapter that the running call uses, or the stored one."""
        if model is None:
            return self
        if not _is_compiling():
            selection = _CURRENT.get()
            if selection is not None and selection.model is model and selection.adapter != BASE:
                return selection.adapter
        try:
            return vars(model)["active_adapter"]
        except KeyError:
            raise AttributeError("active_adapter") from None

    def __set__(self, model: Any, value: Any) -> None:
        """Store the active adapter, as PEFT does."""
        vars(model)["active_adapter"] = value

    def __delete__(self, model: Any) -> None:
        """Forget the active adapter, as deleting a plain attribute does."""
        try:
            del vars(model)["active_adapter"]
        except KeyError:
            raise AttributeError("active_adapter") from None


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
