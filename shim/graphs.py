"""What torch.compile may do while a call selects adapters: its graphs keep what they were traced with.

A graph that a plain call made holds the adapter that was active, and PEFT's own code has no guard that sees the names.
So the compiled parts of a model run a mixed call in one of two ways: as they are written (`Graphs.NONE`), or by graphs
of their own, in which every adapted layer is one operator that asks the running call for its adapters
(`Graphs.OPERATORS`; see `kernels.opaque`). Those are told from plain ones by `MixedCall`, a mode that dynamo guards.
"""

from __future__ import annotations

import enum
import functools
import sys
from contextlib import nullcontext
from typing import Any, Callable, ContextManager, Iterator

import torch
from torch.overrides import TorchFunctionMode

from shim.patch import Replacement


class Graphs(enum.Enum):
    """How the compiled parts of a model run a call.

    NO_MATTER: nothing of it is compiled. NONE: as they are written. OPERATORS: by graphs for every list of names.
    """

    NO_MATTER = "no matter"
    NONE = "none"
    OPERATORS = "operators"


class MixedCall(TorchFunctionMode):
    """Is on the stack of the thread that runs a mixed call, and does nothing: dynamo guards the stack.

    So a graph made in a mixed call serves mixed calls only, and one made in a plain call plain ones, in every thread.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function."""
        return func(*args, **(kwargs or {}))


class Outside:
    """Takes the running thread's `MixedCall` off its stack for a block: a layer need not pay for it at each operation.

    A class, since it is entered at each layer call.
    """

    def __enter__(self) -> None:
        """Take the mode off the top, if it is there."""
        size = torch._C._len_torch_function_stack()
        on_top = size and type(torch._C._get_function_stack_at(size - 1)) is MixedCall
        self._mode = torch._C._pop_torch_function_stack() if on_top else None

    def __exit__(self, *error: Any) -> None:
        """Put it back."""
        if self._mode is not None:
            torch._C._push_on_torch_function_stack(self._mode)


def can_serve() -> bool:
    """Whether this torch lets a mixed call go through compiled modules at all."""
    # Breakpoint: pytorch/pytorch#133130, torch 2.6: dynamo guards the stack of function modes; #137504, in the same
    # release: a compiled function asks at each call whether to run as it is written.
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is None:
        return False
    return hasattr(dynamo.eval_frame, "_callback_from_stance") and hasattr(torch._C, "_get_function_stack_at")


def no_compilation() -> ContextManager[Any]:
    """Return what keeps dynamo from compiling, in all threads, for a block: it waits for one that does.

    What a trace has every module called through would get into the graph of another thread, or fail its guards.
    """
    convert_frame = getattr(sys.modules.get("torch._dynamo"), "convert_frame", None)
    return getattr(convert_frame, "compile_lock", None) or nullcontext()


def as_written(original: Callable[[Any], Any], asked: Callable[[], Graphs]) -> Callable[[Any], Any]:
    """Return `original`, which tells a compiled function what to compile by; nothing where the call wants no graphs.

    Not by torch.compiler.set_stance, which is for all threads: another's plain call would find its stance changed.
    """
    count: Callable[[int], int]
    # Breakpoint: torch 2.12 or 2.13: with fullgraph=True the graphs that a call ran are counted, and none raises.
    count = getattr(torch._C._dynamo.eval_frame, "set_fullgraph_compiled_frame_count", lambda _: -1)

    @functools.wraps(original)
    def callback_from_stance(callback: Any) -> Any:
        if asked() is not Graphs.NONE:
            return original(callback)
        count(-1)  # the call that asks shall not
        return None

    return callback_from_stance


def replacements(calling: Callable[[Any], Any], asked: Callable[[], Graphs]) -> Iterator[Replacement]:
    """Yield what lets compiled modules take names, by `calling`, and what is `asked` at each call of one."""
    dynamo = sys.modules["torch._dynamo"].eval_frame
    module = dynamo.OptimizedModule
    # Breakpoint: after torch 2.6, which has no such method of its own: named for its place, not for what it calls.
    replacement = Replacement if "__call__" in vars(module) else Replacement.by
    yield replacement(module, "__call__", calling(module.__call__))
    yield Replacement(dynamo, "_callback_from_stance", as_written(dynamo._callback_from_stance, asked))
