"""Nested inputs and outputs as leaves with paths: containers, `ModelOutput`s, dataclasses, caches, plain objects."""

from __future__ import annotations

import collections
import copy
import dataclasses
import enum
import functools
import numbers
import types
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Set, Tuple

import numpy
import torch

from shim.errors import RefusedError

Leaf = Tuple[str, Any]
IsLeaf = Callable[[Any], bool]

# What no forward changes.
VALUES: Tuple[type, ...] = (
    *(bool, int, float, complex, str, bytes, type(None)),
    *(enum.Enum, torch.dtype, torch.device, slice, range),
)
# Never looked into: they hold no rows, or are part of the model and no output of one call.
_WHOLE: Tuple[type, ...] = (
    *VALUES,
    *(torch.Tensor, torch.nn.Module, torch.Generator, torch.layout, torch.memory_format, numpy.ndarray, numpy.generic),
    *(type, types.ModuleType, types.FunctionType, types.MethodType, types.BuiltinFunctionType, numbers.Number),
)
_HEAP_TYPE = 1 << 9
"""The flag of classes that Python code makes, as `copyreg` tells them from those of C."""


def leaves(value: Any, path: str = "", is_leaf: IsLeaf = lambda value: False) -> List[Leaf]:
    """Return (path, leaf) of every leaf of `value`, in a fixed order.

    A leaf is whatever holds nothing that can be looked into: tensors, numbers, strings, None, modules, functions. An
    empty container is a leaf as well, so that two structures with equal leaves are equal. An object that several hold
    is looked into once, one that holds itself not again.

    Args:
        is_leaf: tells what else is not to be looked into.
    """
    found: List[Leaf] = []

    def note(where: str, leaf: Any) -> None:
        found.append((where, leaf))

    _Walk(note, rebuilds=False).of(value, path, is_leaf)
    return found


def by_path(value: Any, path: str = "", is_leaf: IsLeaf = lambda value: False) -> Dict[str, Any]:
    """Return every leaf of `value` by path; see `leaves`.

    Raises:
        RefusedError: two leaves have one path, so that one would stand for both.
    """
    found = leaves(value, path, is_leaf)
    named = dict(found)
    if len(named) != len(found):
        twice = next(where for where in named if sum(where == other for other, _ in found) > 1)
        raise RefusedError(
            f"two values are called {shown(twice)}, so they cannot be told apart. Give the keys of nested dicts "
            "names without dots and brackets, or run one adapter a call"
        )
    return named


def map_leaves(
    function: Callable[[str, Any], Any], value: Any, path: str = "", is_leaf: IsLeaf = lambda value: False
) -> Any:
    """Return a copy of `value` with `function(path, leaf)` in the place of each leaf; see `leaves`.

    Containers and objects are new, so the caller may change what is returned without changing `value`. They are made
    without their own `__init__`, which may compute something anew from what it is given.

    Raises:
        RefusedError: one cannot be made anew, or holds itself.
    """
    return _Walk(function, rebuilds=True).of(value, path, is_leaf)


def held_now(output: Any) -> Any:
    """Return a copy of `output` that holds what it holds now, for a model that fills one object at every call.

    Caches in it are the same ones.
    """
    return map_leaves(lambda _, leaf: leaf, output, "output", is_state)


def shown(path: str) -> str:
    """Return how a message names the leaf at `path` of an output: as its user does."""
    return repr(path[len("output.") :] if path.startswith("output.") else path)


def is_opaque(leaf: Any) -> bool:
    """Tell whether a leaf may hold tensors that no path leads to: a generator, a closure, a set of tensors."""
    if isinstance(leaf, (set, frozenset)):
        return any(isinstance(part, torch.Tensor) or is_opaque(part) for part in leaf)
    if isinstance(leaf, types.FunctionType):
        return leaf.__closure__ is not None
    if isinstance(leaf, (types.MethodType, types.BuiltinFunctionType)):
        return not isinstance(leaf.__self__, (type(None), torch.nn.Module, types.ModuleType, type))
    if isinstance(leaf, numpy.ndarray):
        return bool(leaf.dtype.hasobject)
    return not (isinstance(leaf, (*_WHOLE, dict, list, tuple, types.MappingProxyType)) or _is_of_python(leaf))


def is_cache(value: Any) -> bool:
    """Tell whether `value` is a cache object of transformers: state that a forward changes in place."""
    return any(cls.__module__.startswith("transformers.") and "Cache" in cls.__name__ for cls in type(value).__mro__)


def is_state(value: Any) -> bool:
    """Tell whether `value` is a cache of transformers, or a layer of one."""
    # Breakpoint: huggingface/transformers#39106: a cache is a list of layer objects.
    return is_cache(value) or type(value).__module__ == "transformers.cache_utils"


def is_object(value: Any) -> bool:
    """Tell whether `value` is neither a container nor a dataclass nor a cache: it may change in ways of its own."""
    containers = (list, tuple, dict, types.MappingProxyType, collections.UserDict)
    return not (isinstance(value, containers) or dataclasses.is_dataclass(value) or is_state(value))


def is_ours(value: Any) -> bool:
    """Whether this is of the shim, such as what it puts in the place of an object that it does not look into."""
    return type(value).__module__.startswith("shim.")


def replace_state(target: Any, source: Any) -> None:
    """Make the cache `target` hold what `source`, of the same class, holds."""
    vars(target).clear()
    vars(target).update(vars(source))


class _Parts(NamedTuple):
    """What a value holds, in a fixed order: items by key or index, attributes by name."""

    items: Dict[Any, Any]
    attributes: Dict[str, Any]


_NOTHING = _Parts({}, {})


class _Walk:
    """One walk over a value: what it has come by so far."""

    def __init__(self, function: Callable[[str, Any], Any], rebuilds: bool) -> None:
        self._function = function
        self._rebuilds = rebuilds
        self._above: Set[int] = set()
        self._done: Dict[int, Any] = {}

    def of(self, value: Any, path: str, is_leaf: IsLeaf) -> Any:
        """Hand each leaf of `value` to the function; return a copy with what that returned, where one is wanted."""
        if id(value) in self._done:
            return self._done[id(value)]
        parts = _NOTHING if _is_whole(value) or is_leaf(value) else _parts_of(value)
        if not parts.items and not parts.attributes:
            # An empty list or dict is copied too: a cache that is empty now is filled in place later.
            return self._function(path, copy.copy(value) if isinstance(value, (list, dict, set)) else value)
        if id(value) in self._above:
            return self._again(value, path)
        self._above.add(id(value))
        is_a_state = bool(parts.attributes) and is_state(value)
        inside = is_object if is_a_state else is_leaf  # what a cache holds besides its tensors is its own
        mapped = _Parts(
            {key: self.of(part, _path_of_item(path, value, key), inside) for key, part in parts.items.items()},
            {key: self.of(part, f"{path}.{key}", inside) for key, part in parts.attributes.items()},
        )
        self._above.remove(id(value))
        rebuilt = _rebuild(value, parts, mapped, path) if self._rebuilds else None
        if mapped.attributes and not is_a_state:
            self._done[id(value)] = rebuilt
        return rebuilt

    def _again(self, value: Any, path: str) -> None:
        if self._rebuilds:
            raise RefusedError(f"{_named(value, path)} holds itself, {_NOT_MADE_ANEW}")


_NOT_MADE_ANEW = "so it cannot be made anew for other rows. Return tensors in dicts, tuples or dataclasses instead"


def _path_of_item(path: str, value: Any, key: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"{path}[{key}]"
    return f"{path}.{key}" if path else str(key)


def _is_whole(value: Any) -> bool:
    # Breakpoint: huggingface/transformers#35314, 4.48: until then caches were modules.
    return isinstance(value, _WHOLE) and not (isinstance(value, torch.nn.Module) and is_state(value))


def _parts_of(value: Any) -> _Parts:
    """Return what `value` holds; nothing where none of it can be seen."""
    if isinstance(value, (list, tuple)):
        return _Parts(dict(enumerate(value)), dict(_attributes(value)))
    if isinstance(value, (dict, types.MappingProxyType)):
        # Those of a ModelOutput are its items once more, and the outputs that it does not have.
        own = {key: part for key, part in _attributes(value) if part is not None and key not in value}
        return _Parts(dict(value), own)
    if isinstance(value, collections.UserDict):  # BatchEncoding
        return _Parts(dict(value.data), {key: part for key, part in _attributes(value) if key != "data"})
    if not is_object(value) or (_is_of_python(value) and not is_ours(value)):
        return _Parts({}, dict(_attributes(value)))
    return _NOTHING


def _attributes(value: Any) -> Iterator[Tuple[str, Any]]:
    """Yield the attributes of `value` itself, those in slots too; none of its class, and no property."""
    cls = type(value)
    if cls in (dict, list, tuple):
        return
    yield from getattr(value, "__dict__", {}).items()
    for owner in cls.__mro__:
        for name, member in vars(owner).items() if "__slots__" in vars(owner) else ():
            if isinstance(member, types.MemberDescriptorType) and hasattr(value, name):
                yield name, getattr(value, name)


def _is_of_python(value: Any) -> bool:
    """Whether all that an object holds is in attributes, and none of it where only C code finds it."""
    cls = type(value)
    known = (object, types.SimpleNamespace)
    made_by_python = all(base in known or base.__flags__ & _HEAP_TYPE for base in cls.__mro__)
    has_attributes = hasattr(value, "__dict__") or any("__slots__" in vars(base) for base in cls.__mro__)
    return made_by_python and has_attributes and not isinstance(value, functools.partial)


def _rebuild(value: Any, parts: _Parts, mapped: _Parts, path: str) -> Any:
    """Return a copy of `value` that holds `mapped` in the place of `parts`."""
    try:
        rebuilt = _with_items(value, mapped.items)
        for name, part in mapped.attributes.items():
            if name in getattr(value, "__dict__", {}):
                vars(rebuilt)[name] = part
            elif part is not parts.attributes[name] or not hasattr(rebuilt, name):
                object.__setattr__(rebuilt, name, part)  # a frozen dataclass has slots, too
        return rebuilt
    except (TypeError, AttributeError) as error:
        raise RefusedError(f"{_named(value, path)} has parts that nobody can set ({error}), {_NOT_MADE_ANEW}") from None


def _with_items(value: Any, items: Dict[Any, Any]) -> Any:
    """Return a copy of `value` with other items, and with its attributes."""
    cls = type(value)
    if cls is dict:
        return items
    if cls in (list, tuple):
        return cls(items.values())
    if cls is types.MappingProxyType:
        return cls(items)
    rebuilt = _of_class(cls, value, items)
    if hasattr(value, "__dict__"):
        vars(rebuilt).update(vars(value))
    if isinstance(value, dict):
        # Some, ModelOutputs among them, have their items as attributes, too.
        held = getattr(rebuilt, "__dict__", {})
        held.update((key, item) for key, item in items.items() if key in held)
    elif isinstance(value, collections.UserDict):
        rebuilt.data = items
    return rebuilt


def _of_class(cls: Any, value: Any, items: Dict[Any, Any]) -> Any:
    """Return an object of the class of `value` with `items` and no attributes, not by `__init__`."""
    if isinstance(value, tuple):
        # Not by a namedtuple's own __new__; torch's return types have no other way.
        return tuple.__new__(cls, items.values()) if hasattr(value, "_fields") else cls(list(items.values()))
    if isinstance(value, dict) and not dataclasses.is_dataclass(value):
        rebuilt = copy.copy(value)  # with what it is made of in C: the factory of a defaultdict
        rebuilt.update(items)
        return rebuilt
    rebuilt = cls.__new__(cls)
    if isinstance(value, list):
        list.extend(rebuilt, items.values())
    elif isinstance(value, dict):
        kind: Any = collections.OrderedDict if isinstance(value, collections.OrderedDict) else dict
        for key, item in items.items():
            kind.__setitem__(rebuilt, key, item)
    return rebuilt


def _named(value: Any, path: str) -> str:
    """Return how a message names a value at a path."""
    return f"{shown(path)}, a {type(value).__module__}.{type(value).__qualname__},"
