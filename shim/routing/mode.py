"""A dispatch mode that many threads may be in at once.

torch notes in variables of the whole process that some mode is entered, and each exit puts back what its entry
found. Where two threads overlap, the last one out puts back "entered", and torch.compile silently compiles nothing
from then on.
"""

from __future__ import annotations

import threading
from typing import Any, Dict

from torch.utils import _python_dispatch

# Breakpoint: pytorch/pytorch#131828, in torch 2.4.1: the variables; before, the stack of modes is the thread's alone.
_FLAGS = tuple(name for name, value in vars(_python_dispatch).items() if name.startswith("_is_in_") and value is False)
_IN_C = "_is_in_any_mode_without_ignore_compile_internals"  # torch 2.11: its value is kept in C too

_LOCK = threading.Lock()
_inside = 0
_outside: Dict[str, bool] = {}


class ThreadedDispatchMode(_python_dispatch.TorchDispatchMode):
    """A dispatch mode for the thread that enters it; the last thread out leaves torch as the first one found it."""

    def __enter__(self) -> Any:
        """Enter the mode on this thread."""
        global _inside, _outside
        with _LOCK:
            if _inside == 0:
                _outside = _flags()
            _inside += 1
            return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        """Leave the mode on this thread."""
        global _inside
        with _LOCK:
            now = _flags()
            super().__exit__(*error)  # type: ignore[no-untyped-call]
            _inside -= 1
            _set(now if _inside else _outside)


def _flags() -> Dict[str, bool]:
    return {name: getattr(_python_dispatch, name) for name in _FLAGS}


def _set(flags: Dict[str, bool]) -> None:
    for name, value in flags.items():
        setattr(_python_dispatch, name, value)
    set_in_c = getattr(_python_dispatch, "set_is_in_mode_without_ignore_compile_internals", None)
    if set_in_c is not None:
        set_in_c(flags[_IN_C])
