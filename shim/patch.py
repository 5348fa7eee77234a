"""One upstream defect, how to see it, and what replaces it; applied and restored all or nothing.

Sources of the practice: gevent.monkey and wrapt (the first original wins, patching is queried by name),
typing_extensions (each branch carries its breakpoint).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Callable, List, Sequence, Tuple

from shim.errors import PatchError
from shim.versions import in_range, installed

_LOCK = threading.RLock()
_ABSENT: Any = object()


@dataclass(frozen=True)
class Replacement:
    """One attribute of one owner (a class or a module), and the value that takes its place."""

    owner: Any
    attribute: str
    value: Any

    @classmethod
    def by(cls, owner: Any, attribute: str, function: Callable[..., Any]) -> Replacement:
        """Return a replacement by `function`, renamed to what it displaces, so that pickle finds it there.

        Not functools.wraps, whose `__wrapped__` would show the signature of the function that is displaced.
        """
        original = vars(owner).get(attribute)
        function.__name__ = attribute
        function.__qualname__ = getattr(original, "__qualname__", f"{owner.__name__}.{attribute}")
        function.__module__ = getattr(original, "__module__", None) or owner.__module__
        return cls(owner, attribute, function)


@dataclass(frozen=True)
class Patch:
    """One upstream defect as data.

    `is_broken` asks the installed packages' behaviour and decides; `affected` is the version range in which
    the defect was measured, held against it. `replacements` is called only when the patch is applied, with
    every earlier patch already in place. `check` is the conformance check that goes red without it.
    """

    name: str
    defect: str
    breakpoint: str
    distribution: str
    affected: str
    clauses: Tuple[str, ...]
    check: str
    is_broken: Callable[[], bool]
    replacements: Callable[[], Sequence[Replacement]]

    @property
    def expected(self) -> bool:
        """Whether the installed version lies in the range in which the defect was measured."""
        return in_range(self.distribution, self.affected)

    def __str__(self) -> str:
        return f"{self.name} ({self.distribution} {installed(self.distribution)}, upstream: {self.breakpoint})"


class Applied:
    """The replacements that are in place, newest last, with the raw attributes that they displaced."""

    def __init__(self) -> None:
        self._done: List[Tuple[Replacement, Any]] = []

    def add(self, replacements: Sequence[Replacement]) -> None:
        """Put every replacement in place, or none.

        Raises:
            PatchError: an owner refused the attribute; those already set by this call are taken back.
        """
        with _LOCK:
            before = len(self._done)
            try:
                for replacement in replacements:
                    raw = vars(replacement.owner).get(replacement.attribute, _ABSENT)
                    setattr(replacement.owner, replacement.attribute, replacement.value)
                    self._done.append((replacement, raw))
            except BaseException as error:
                self._take_back(before)
                if not isinstance(error, Exception):
                    raise
                raise PatchError(f"could not set an attribute: {error!r}; nothing was changed") from error

    def restore(self) -> None:
        """Put back the very objects that were displaced, newest first.

        Raises:
            PatchError: someone else has patched over one of ours. Nothing is restored then, since putting
                the original back would silently undo theirs: undo the later patch first.
        """
        with _LOCK:
            newest = {(id(done.owner), done.attribute): done for done, _ in self._done}
            for replacement in newest.values():
                found = vars(replacement.owner).get(replacement.attribute, _ABSENT)
                if found is not replacement.value:
                    place = f"{_name(replacement.owner)}.{replacement.attribute}"
                    raise PatchError(
                        f"{place} is {found!r}, but should be the shim's own replacement: it was patched again "
                        f"after shim.install(). Undo that patch first, then call shim.uninstall()."
                    )
            self._take_back(0)

    def _take_back(self, keep: int) -> None:
        while len(self._done) > keep:
            replacement, raw = self._done.pop()
            if raw is _ABSENT:
                delattr(replacement.owner, replacement.attribute)
            else:
                setattr(replacement.owner, replacement.attribute, raw)


def with_subclasses(*classes: Any) -> List[Any]:
    """Return `classes` and every class that is derived from them so far, each once."""
    found = list(classes)
    for cls in found:
        found.extend(sub for sub in cls.__subclasses__() if sub not in found)
    return found


def _name(owner: Any) -> str:
    return str(getattr(owner, "__qualname__", None) or getattr(owner, "__name__", owner))
