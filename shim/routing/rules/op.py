"""One operation as its rule sees it: what ran, on which tensors, and who owned them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import torch
from torch.utils._pytree import tree_flatten

from shim.routing.owners import Ids, Lattice
from shim.routing.storage import address

Result = Union[Ids, Sequence[Ids]]
"""Ids for every output of an operation: one for all of them, or one each. They broadcast to the output."""

Rule = Callable[["Op"], Result]

RULES: Dict[str, Rule] = {}
"""By name of the operation, without overload and without the underscore of the in-place form."""


@dataclass
class Op:
    """One call of an ATen operation that has run, its outputs at hand.

    func: the overload. name: its name without overload and trailing underscore. outputs: what it returned.
    written: what it wrote to, returned or not. lattice: joins ids; a rule sets `lattice.by_data = True` where data
    decides the owner of an element. lookup: the ids of a tensor. by_data: who decided any of them by data, or 0.
    """

    func: Any
    name: str
    args: Tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: List[torch.Tensor]
    written: List[torch.Tensor]
    lattice: Lattice
    lookup: Callable[[torch.Tensor], Ids]
    by_data: Callable[[torch.Tensor], int]

    def __post_init__(self) -> None:
        self.outputs = self.outputs or self.written

    @property
    def results(self) -> List[torch.Tensor]:
        """What the operation gave values to: its outputs, then what else it wrote to."""
        if not self.written:
            return self.outputs
        returned = {address(output) for output in self.outputs}
        return self.outputs + [tensor for tensor in self.written if address(tensor) not in returned]

    def read(self) -> List[torch.Tensor]:
        """Return the tensors among the arguments that the operation may have read: all but its `out`."""
        out = _outs(self.func)
        kept = {name: value for name, value in self.kwargs.items() if name not in out} if out else self.kwargs
        return [leaf for leaf in tree_flatten((self.args, kept))[0] if isinstance(leaf, torch.Tensor)]

    def fitted(self, result: Result) -> List[Ids]:
        """Return what a rule returned as ids of the shape of each of `results`, or constants."""
        results = self.results
        each = [result] * len(results) if result is None or isinstance(result, torch.Tensor) else list(result)
        if len(each) == len(self.outputs) < len(results):
            total = self.join(*(self.total(self.ids(tensor)) for tensor in self.read()))
            each += [total] * (len(results) - len(each))
        if len(each) != len(results):
            raise ValueError(f"{len(each)} results for {len(results)} tensors")
        return [
            ids.expand(tensor.shape) if ids is not None and tensor.numel() else None
            for ids, tensor in zip(each, results)
        ]

    def argument(self, name: str, default: Any = None) -> Any:
        """Return the argument called `name` in the schema, as given or as the schema defaults it."""
        place = _places(self.func).get(name)
        if place is None:
            return default
        index, otherwise = place
        return self.args[index] if index < len(self.args) else self.kwargs.get(name, otherwise)

    def dims(self) -> List[int]:
        """Return the dimensions that the operation names, from 0 up; all of its first argument's if it names none."""
        count = self.args[0].dim()
        named = self.argument("dim")
        named = self.argument("dims") if named is None else named
        shape = self.argument("normalized_shape")
        if shape is not None:
            named = list(range(-len(shape), 0))
        if named is None or named == []:
            named = list(range(count))
        return sorted({dim % count for dim in ([named] if isinstance(named, int) else named)}) if count else []

    def ids(self, tensor: Any) -> Ids:
        """Return the ids of an argument; None where they are constant, or where it is no tensor."""
        if not isinstance(tensor, torch.Tensor):
            return None
        ids = self.lookup(tensor)
        # A number on the processor may meet tensors on an accelerator.
        return ids if ids is None or ids.device == self.outputs[0].device else ids.to(self.outputs[0].device)

    def dense(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the ids of an argument, constants written out; of `tensor`'s shape."""
        ids = self.ids(tensor)
        if ids is None:
            return torch.zeros((), dtype=torch.int32, device=tensor.device).expand(tensor.shape)
        return ids

    def join(self, *ids: Ids) -> Ids:
        """Return the join, element by element."""
        return self.lattice.join(*ids)

    def reduce(self, ids: Ids, dims: Sequence[int]) -> Ids:
        """Return the join over `dims`, which stay with size 1."""
        return self.lattice.reduce(ids, dims)

    def intact(self, tensor: torch.Tensor) -> bool:
        """Whether `tensor` still holds what the operation read: it was not written over."""
        return all(address(tensor) != address(output) for output in self.outputs)

    def total(self, ids: Ids) -> Ids:
        """Return the join of all elements, with no dimensions."""
        return None if ids is None else self.reduce(ids.reshape(-1), [0]).reshape(())  # type: ignore[union-attr]


_PLACES: Dict[Any, Dict[str, Tuple[int, Any]]] = {}


def _places(func: Any) -> Dict[str, Tuple[int, Any]]:
    """Return the position and the default of every argument of `func`, by name."""
    places = _PLACES.get(func)
    if places is None:
        arguments = enumerate(func._schema.arguments)
        places = _PLACES[func] = {one.name: (index, one.default_value) for index, one in arguments}
    return places


_OUTS: Dict[Any, Sequence[str]] = {}


def _outs(func: Any) -> Sequence[str]:
    """Return the names of the arguments that `func` fills without reading them."""
    outs = _OUTS.get(func)
    if outs is None:
        arguments = [one for one in func._schema.arguments if one.kwarg_only and one.alias_info is not None]
        outs = _OUTS[func] = [one.name for one in arguments if one.alias_info.is_write]
    return outs


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register the decorated function as the rule of the operations `names`."""

    def register(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return register


def find_rule(name: str) -> Optional[Rule]:
    """Return the rule of the operation `name`, or None."""
    return RULES.get(name)
