"""A method of a class that another function stands in for while any block of any thread wants it."""

from __future__ import annotations

import functools
import threading
from typing import Any, Callable, Optional, Tuple

Act = Callable[..., Any]
"""Does the work of a method: is called with what does that work without it, bound, and with the method's arguments."""


class StandIn:
    """A context manager, for many threads at once: inside it calls of `owner.name` go through `act`.

    `act(upstream, instance, *args, **kwargs)` is asked in every thread; the last block that ends puts back what the
    first one found.
    """

    def __init__(self, owner: Any, name: str, act: Act) -> None:
        self._owner, self._name, self._act = owner, name, act
        self._lock = threading.Lock()
        self._blocks = 0
        self._in_place: Optional[Callable[..., Any]] = None
        self._made: Tuple[Any, Any] = (None, None)

    def __enter__(self) -> None:
        """Put the stand-in in place, if it is not."""
        with self._lock:
            self._blocks += 1
            found = getattr(self._owner, self._name)
            if found is not self._in_place:
                if self._made[0] is not found:
                    self._made = (found, self._make(found))
                self._in_place = self._made[1]
                setattr(self._owner, self._name, self._in_place)

    def __exit__(self, *error: Any) -> None:
        """Put back what was found, if no other block wants the stand-in.

        Whoever has patched the method since, as torch.fx does while it traces, goes on through ours, which is idle.
        """
        with self._lock:
            self._blocks -= 1
            if self._blocks:
                return
            if getattr(self._owner, self._name) is self._in_place:
                setattr(self._owner, self._name, self._made[0])
            self._in_place = None

    def _make(self, upstream: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(upstream)
        def stand_in(instance: Any, *args: Any, **kwargs: Any) -> Any:
            if stand_in is not self._in_place:
                return upstream(instance, *args, **kwargs)
            return self._act(functools.partial(upstream, instance), instance, *args, **kwargs)

        return stand_in
