"""Work that a forward hands to other threads: a trace does not follow it there, and layers find no call there.

By `threading.Thread.start` and by `ThreadPoolExecutor.submit` (asyncio's `to_thread` too). What goes to a thread by a
queue of the forward's own is not seen.
"""

from __future__ import annotations

import functools
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, ContextManager, Optional

from shim.routing.stand_ins import StandIn
from shim.selection import select, selected

Handle = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Takes the function that another thread is to run, and returns what it is to run instead."""


class _Here(threading.local):
    """What becomes of the work that the running thread hands over."""

    handle: Optional[Handle] = None


_HERE = _Here()


class _Handled:
    """A block in which the work that this thread hands over goes through `handle`; a class, for calls enter it."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def __enter__(self) -> None:
        _STARTS.__enter__()
        _SUBMITS.__enter__()
        self._before, _HERE.handle = _HERE.handle, self._handle

    def __exit__(self, *error: Any) -> None:
        _HERE.handle = self._before
        _SUBMITS.__exit__(*error)
        _STARTS.__exit__(*error)


def hand_overs_noted(note: Callable[[], None]) -> ContextManager[None]:
    """Return a block in which `note` is called whenever this thread hands work to another."""

    def handle(work: Callable[..., Any]) -> Callable[..., Any]:
        note()
        return work

    return _Handled(handle)


def carried_to_threads() -> ContextManager[None]:
    """Return a block in which the threads that this one hands work to do it under its selection of one adapter."""
    return _Handled(_carried)


def _carried(work: Callable[..., Any]) -> Callable[..., Any]:
    selection = selected()

    @functools.wraps(work)
    def carried(*args: Any, **kwargs: Any) -> Any:
        with select(selection), carried_to_threads():
            return work(*args, **kwargs)

    return carried


def _start(upstream: Callable[..., Any], thread: threading.Thread) -> None:
    if _HERE.handle is not None:
        thread.run = _HERE.handle(thread.run)  # type: ignore[method-assign]
    upstream()


def _submit(upstream: Callable[..., Any], _: Any, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    handle = _HERE.handle
    if handle is None:
        return upstream(work, *args, **kwargs)
    _HERE.handle = None  # a thread that the pool starts for this work is there for other work too
    try:
        return upstream(handle(work), *args, **kwargs)
    finally:
        _HERE.handle = handle


_STARTS = StandIn(threading.Thread, "start", _start)
_SUBMITS = StandIn(ThreadPoolExecutor, "submit", _submit)
