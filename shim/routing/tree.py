"""Nested inputs and outputs as leaves with paths: tuples, dicts, `ModelOutput`s, dataclasses, caches."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any, Callable, Dict, Iterator, List, Tuple

from shim.errors import RefusedError

Leaf = Tuple[str, Any]


def leaves(value: Any, path: str = "") -> List[Leaf]:
    """Return (path, leaf) of every leaf of `value`, in a fixed order.

    A leaf is whatever is no container: tensors, numbers, strings, None, unknown objects. An empty container
    is a leaf as well, so that two structures with equal leaves are equal.
    """
    found: List[Leaf] = []

    def note(where: str, leaf: Any) -> Any:
        found.append((where, leaf))
        return leaf

    map_leaves(note, value, path)
    return found


def by_path(value: Any, path: str = "") -> Dict[str, Any]:
    """Return every leaf of `value` by path.

    Raises:
        RefusedError: two leaves have one path, so that one would stand for both.
    """
    found = leaves(value, path)
    named = dict(found)
    if len(named) != len(found):
        twice = next(where for where in named if sum(where == other for other, _ in found) > 1)
        raise RefusedError(
            f"two values are called {shown(twice)}, so they cannot be told apart. Give the keys of nested dicts "
            "names without dots and brackets, or run one adapter a call"
        )
    return named


def map_leaves(function: Callable[[str, Any], Any], value: Any, path: str = "") -> Any:
    """Return a copy of `value` with `function(path, leaf)` in the place of each leaf.

    Containers are new objects, so the caller may change what is returned without changing `value`.
    """
    children = list(_children(value, path))
    if not children:
        # An empty list or dict is copied too: a cache that is empty now is filled in place later.
        return function(path, copy.copy(value) if isinstance(value, (list, dict, set)) else value)
    mapped = {key: map_leaves(function, child, where) for key, where, child in children}
    return _rebuild(value, mapped)


def shown(path: str) -> str:
    """Return how a message names the leaf at `path` of an output: as its user does."""
    return repr(path[len("output.") :] if path.startswith("output.") else path)


def is_cache(value: Any) -> bool:
    """Tell whether `value` is a cache object of transformers: state that a forward changes in place."""
    return any(cls.__module__.startswith("transformers.") and "Cache" in cls.__name__ for cls in type(value).__mro__)


def replace_state(target: Any, source: Any) -> None:
    """Make the cache `target` hold what `source`, of the same class, holds."""
    vars(target).clear()
    vars(target).update(vars(source))


def _children(value: Any, path: str) -> Iterator[Tuple[Any, str, Any]]:
    """Yield (key, path, child) of a container; nothing for a leaf."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield key, f"{path}.{key}" if path else str(key), child
    elif isinstance(value, (list, tuple)):
        for index, child in enumerate(value):
            yield index, f"{path}[{index}]", child
    elif is_state(value):
        for key, child in vars(value).items():
            yield key, f"{path}.{key}", child
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield field.name, f"{path}.{field.name}", getattr(value, field.name)


def is_state(value: Any) -> bool:
    """Tell whether `value` is a cache of transformers, or a layer of one."""
    # Breakpoint: huggingface/transformers#39106: a cache is a list of layer objects.
    return is_cache(value) or type(value).__module__ == "transformers.cache_utils"


def _rebuild(value: Any, mapped: Dict[Any, Any]) -> Any:
    if isinstance(value, dict):
        if type(value) is dict:
            return mapped
        if hasattr(value, "__dataclass_fields__"):  # ModelOutput: a dict and a dataclass in one
            return type(value)(**mapped)
        rebuilt = copy.copy(value)
        rebuilt.update(mapped)
        return rebuilt
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*mapped.values())
    if isinstance(value, (list, tuple)):
        return type(value)(mapped.values())
    if is_state(value):
        rebuilt = object.__new__(type(value))
        vars(rebuilt).update(mapped)
        return rebuilt
    return dataclasses.replace(value, **mapped)
