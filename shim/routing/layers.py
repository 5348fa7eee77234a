"""How one adapted layer runs its rows, each under the adapter of its sample, once the rows are known."""

from __future__ import annotations

import enum
from dataclasses import replace
from functools import cached_property
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import torch

from shim.batch import MixedBatch, missing
from shim.errors import Unroutable
from shim.kernels.attention import is_attention
from shim.kernels.layer import Memory, run_linear, run_modules
from shim.kernels.tables import RowTable
from shim.modules import base_layer_of, layer_kinds, walk
from shim.routing.attention import row_dim, rows_taken
from shim.routing.layout import same_constant
from shim.routing.rows import RowRule
from shim.routing.tree import leaves, map_leaves
from shim.selection import BASE, Selection, select, selected

Forward = Callable[..., Any]
_PLAIN = frozenset("Linear Embedding Conv1d Conv2d Conv3d".split())


class Kind(str, enum.Enum):
    """Where a layer has its rows.

    LINEAR: every dimension of its input but the last. EMBEDDING: every dimension. CONVOLUTION: the first.
    EXPERTS: as linear, and the tensors beside the input (the router's choice) have the same rows. OUTPUT: nothing is
    known of how its output is made, so the rows are those of the output, every dimension but the last. ATTENTION: the
    dimension that counts samples, of all its arguments; see `routing.attention`.
    """

    LINEAR = "linear"
    EMBEDDING = "embedding"
    CONVOLUTION = "convolution"
    EXPERTS = "experts"
    OUTPUT = "output"
    ATTENTION = "attention"


def kind_of(layer: Any) -> Kind:
    """Return where `layer`, a tuner layer or a saved-module wrapper, has its rows."""
    if not isinstance(layer, layer_kinds()[0]):
        return Kind.OUTPUT
    base = layer.get_base_layer()
    if type(layer).__name__ == "ParamWrapper":
        return Kind.EXPERTS if is_experts(base) else Kind.OUTPUT
    if is_attention(layer):
        return Kind.ATTENTION
    if isinstance(base, torch.nn.Embedding):
        plain = type(base).forward is torch.nn.Embedding.forward or "Scaled" in type(base).__name__
        return Kind.EMBEDDING if plain else Kind.OUTPUT
    if isinstance(base, (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)):
        return Kind.CONVOLUTION
    if isinstance(base, torch.nn.Linear) or type(base).__name__ == "Conv1D" or hasattr(base, "in_features"):
        return Kind.LINEAR
    return Kind.OUTPUT


def is_experts(module: Any) -> bool:
    """Whether `module` is one of transformers' `...Experts`, which treat each token by itself.

    A class of anybody else's may drop what is beyond a capacity, whatever it is called, and so is followed; as is
    one with hooks, or a forward, of somebody's on the module itself, which accelerate's only moves weights.
    """
    cls = type(module)
    if not (cls.__name__.endswith("Experts") and cls.__module__.split(".")[0] == "transformers"):
        return False
    held = vars(module)
    by_its_class = "forward" not in held or "_hf_hook" in held
    return by_its_class and not held["_forward_hooks"] and not held["_forward_pre_hooks"]


class AdapterRows:
    """The rows of one rule by adapter, along the rule's dimension; rows without weights in a layer are the base's."""

    def __init__(self, rows: Mapping[str, Sequence[int]], size: int, device: Any) -> None:
        self.adapters = tuple(rows)
        self._rows, self._size, self._device = rows, size, device

    @cached_property
    def found(self) -> Sequence[Tuple[str, Any]]:
        """(adapter, indices) of each, the base among them; the indices are None where one has all rows."""
        if len(self._rows) == 1:
            return [(self.adapters[0], None)]
        return [(name, torch.tensor(rows, device=self._device)) for name, rows in self._rows.items()]

    @cached_property
    def table(self) -> RowTable:
        """The rows of the adapters as the kernels take them, by name: as `shim.pack` lays their weights."""
        rows = {name: self._rows[name] for name in sorted(self._rows) if name != BASE}
        return RowTable(rows, self._size, self._device)


class RowGroups:
    """The rows of every rule of one call, grouped by adapter; made once for each rule and device.

    names: the name of each adapted layer by its id. memory: what the kernels share between layers.
    """

    def __init__(self, batch: MixedBatch, *, keeps_weights: bool = False) -> None:
        self.batch = batch
        self.memory = Memory(keeps_weights=keeps_weights)
        self._adapters = tuple(group.adapter for group in batch.groups)
        self._groups: Dict[Any, AdapterRows] = {}
        self._selections: Dict[str, Selection] = {}
        self._rules: Dict[int, Tuple[RowRule, int]] = {}
        self._numbers: Dict[RowRule, int] = {}
        self._absent: Dict[int, Tuple[str, ...]] = {}
        self._plain: Dict[int, bool] = {}
        self.names: Dict[int, str] = {id(layer): name for name, layer in batch.layers}

    def of(self, layer: Any, rule: RowRule, device: Any) -> AdapterRows:
        """Return the rows of each adapter that `layer` has weights for, and of the base."""
        absent = self._absent.get(id(layer))
        if absent is None:
            absent = self._absent[id(layer)] = _absent_inside(layer, self._adapters)
        key = (self._number(rule), device, absent)
        if key not in self._groups:
            self._groups[key] = AdapterRows(self._rows(rule, absent), len(rule.owners), device)
        return self._groups[key]

    def selection(self, adapter: str) -> Selection:
        """Return the selection of `adapter` for the layers of this call."""
        if adapter not in self._selections:
            self._selections[adapter] = self.batch.selection(adapter)
        found, running = self._selections[adapter], selected()
        if found.trains and running is not None and not running.trains:  # inside a reentrant checkpoint
            return replace(found, trains=False)
        return found

    def needs(self, layer: Any) -> List[str]:
        """Return the adapters of this call that `layer` has weights for."""
        absent = _absent_inside(layer, self._adapters)
        return [name for name in self._adapters if name not in absent]

    def is_plain_lora(self, layer: Any) -> bool:
        """Whether the adapters of this call are `B(A(x)) * scaling` in `layer` and nothing else."""
        plain = self._plain.get(id(layer))
        if plain is None:
            plain = self._plain[id(layer)] = _is_plain_lora(layer, self._adapters)
        return plain

    def _number(self, rule: RowRule) -> int:
        """Return a number that equal rules share; by identity first, for a rule may have many thousand owners."""
        known = self._rules.get(id(rule))
        if known is None:
            known = self._rules[id(rule)] = (rule, self._numbers.setdefault(rule, len(self._numbers)))
        return known[1]

    def _rows(self, rule: RowRule, absent: Sequence[str]) -> Dict[str, List[int]]:
        names = self.batch.names
        rows: Dict[str, List[int]] = {}
        for index, sample in enumerate(rule.owners):
            name = names[sample]
            rows.setdefault(BASE if name in absent else name, []).append(index)
        return rows


def run_rows(
    kind: Kind,
    layer: Any,
    forward: Forward,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    rules: Sequence[Optional[RowRule]],
    groups: RowGroups,
) -> Any:
    """Return the output of `layer`, every row under the adapter of its sample.

    Args:
        forward: the layer's own forward, unbound.
        rules: of the input's rows; for `Kind.OUTPUT` one for each output tensor. None: any adapter will do.

    Raises:
        Unroutable: the adapters' outputs do not fit together.
    """
    if kind is Kind.OUTPUT:
        return _run_whole(layer, forward, args, kwargs, rules, groups)
    rule = rules[0]
    if rule is None:
        with select(groups.selection(BASE)):
            return forward(layer, *args, **kwargs)
    rows = groups.of(layer, rule, args[0].device)
    if len(rows.adapters) == 1:
        with select(groups.selection(rows.adapters[0])):
            return forward(layer, *args, **kwargs)
    if not kwargs and len(args) == 1 and groups.is_plain_lora(layer):
        if kind is Kind.LINEAR:
            return run_linear(layer, args[0], rule.dim, rows.table, groups.memory, groups.batch.is_training)
        if kind is Kind.CONVOLUTION or _is_plain_embedding(layer):
            return run_modules(layer, args[0], rule.dim, rows.table)
    if kind is Kind.ATTENTION:
        return _run_attention(layer, forward, args, kwargs, rule, groups, rows.found)
    return _run_grouped(kind, layer, forward, args, kwargs, rule, groups, rows.found)


def _absent_inside(layer: Any, adapters: Sequence[str]) -> Tuple[str, ...]:
    """Return the adapters that neither `layer` nor any layer in what it wraps has weights for.

    That may be a layer of another method, or a module that another adapter saves, in which this one adapts a layer.
    """
    absent = missing(layer, tuple(adapters))
    inner = vars(layer)["_modules"].get("original_module", base_layer_of(layer))
    if absent and inner is not None and vars(inner)["_modules"]:
        for found in walk(inner, set(adapters)):
            if found.is_layer:
                absent = missing(found.module, absent)
    return absent


def row_arguments(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Dict[Any, torch.Tensor]:
    """Return the tensors among the arguments, by position or name."""
    found: Dict[Any, Any] = dict(enumerate(args))
    found.update(kwargs)
    return {key: value for key, value in found.items() if isinstance(value, torch.Tensor)}


def _is_plain_lora(layer: Any, adapters: Sequence[str]) -> bool:
    cls = type(layer)
    if cls.__name__ not in _PLAIN or not cls.__module__.startswith("peft.tuners.lora"):
        return False
    if base_layer_of(layer.base_layer) is not None:  # an adapter of another method inside
        return False
    # Breakpoint: huggingface/peft#2443, peft 0.16.0: variants; before, DoRA is a flag.
    special = (getattr(layer, "lora_variant", None) or {}, getattr(layer, "use_dora", None) or {})
    return not any(kind.get(adapter) for kind in special for adapter in adapters)


def _is_plain_embedding(layer: Any) -> bool:
    """Whether the adapters' product is added to an embedding as it is, and not scaled as Gemma's is."""
    return type(layer).__name__ == "Embedding" and not hasattr(layer.base_layer, "embed_scale")


def _run_grouped(
    kind: Kind,
    layer: Any,
    forward: Forward,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    rule: RowRule,
    groups: RowGroups,
    found: Sequence[Tuple[str, Any]],
) -> Any:
    """Return the output of the layer's own forward on each adapter's rows, in the order of the rows."""
    x = args[0]
    row_dims = {Kind.EMBEDDING: x.dim(), Kind.CONVOLUTION: 1}.get(kind, x.dim() - 1)
    flat = rule.dim is None
    dim = rule.dim or 0
    given = row_arguments(args, kwargs)
    if flat:
        given = {key: _flatten(value, x.shape[:row_dims]) for key, value in given.items()}
    size = given[0].shape[dim]
    per_row = {key for key, value in given.items() if value.dim() > dim and value.shape[dim] == size}
    if kind is Kind.EXPERTS:  # an adapter's parametrization writes over what the base's backward would read
        found = sorted(found, key=lambda part: part[0] == BASE)
    parts = []
    for adapter, rows in found:
        taken = {key: value.index_select(dim, rows) if key in per_row else value for key, value in given.items()}
        some = [taken.get(index, value) for index, value in enumerate(args)]
        with select(groups.selection(adapter)):
            parts.append(forward(layer, *some, **{key: taken.get(key, value) for key, value in kwargs.items()}))
    y = _in_row_order(parts, found, dim)
    return y.reshape(*x.shape[:row_dims], *y.shape[1:]) if flat else y


def _run_attention(
    layer: Any,
    forward: Forward,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    rule: RowRule,
    groups: RowGroups,
    found: Sequence[Tuple[str, Any]],
) -> Any:
    """Return (output, weights) of the layer's own forward on each adapter's rows, in the order of the rows."""
    outputs, weights = [], []
    for adapter, rows in found:
        some, named = rows_taken(groups.names.get(id(layer), ""), layer, args, kwargs, rows, len(rule.owners))
        with select(groups.selection(adapter)):
            output, attended = forward(layer, *some, **named)
        outputs.append(output)
        weights.append(attended)
    y = _in_row_order(outputs, found, row_dim(layer))
    return y, None if weights[0] is None else _in_row_order(weights, found, 0)


def _flatten(value: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    if tuple(value.shape[: len(rows)]) != tuple(rows):
        return value
    return value.reshape(-1, *value.shape[len(rows) :])


def _run_whole(
    layer: Any,
    forward: Forward,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    rules: Sequence[Optional[RowRule]],
    groups: RowGroups,
) -> Any:
    """Run the layer on all rows under each adapter in turn, and select from the outputs."""
    outputs: Dict[str, Any] = {}
    for adapter in [*groups.needs(layer), BASE]:
        if adapter == BASE and outputs and all(_all_held(rule, layer, groups) for rule in rules):
            continue
        with select(groups.selection(adapter)):
            outputs[adapter] = forward(layer, *args, **kwargs)
    columns = {adapter: [v for _, v in tensors_of(output)] for adapter, output in outputs.items()}
    if any(len(column) != len(rules) for column in columns.values()):
        raise Unroutable("the adapters return different numbers of tensors")
    _check_constants(list(outputs.values()))
    chosen = [
        _choose({adapter: column[index] for adapter, column in columns.items()}, layer, rule, groups)
        for index, rule in enumerate(rules)
    ]
    first = next(iter(outputs.values()))
    where = {path: value for (path, _), value in zip(tensors_of(first), chosen)}
    return map_leaves(lambda path, leaf: where.get(path, leaf), first)


def _check_constants(outputs: Sequence[Any]) -> None:
    """Check that what is no tensor is the same under every adapter: it is all rows' own.

    Raises:
        Unroutable: it is not.
    """
    found = [[(p, leaf) for p, leaf in leaves(output) if not isinstance(leaf, torch.Tensor)] for output in outputs]
    for other in found[1:]:
        if [p for p, _ in other] != [p for p, _ in found[0]]:
            raise Unroutable("the adapters return different structures")
        for (path, one), (_, two) in zip(found[0], other):
            if not same_constant(one, two):
                raise Unroutable(f"the adapters return {one!r} and {two!r} at {path!r}, which is one for all rows")


def _choose(outputs: Mapping[str, torch.Tensor], layer: Any, rule: Optional[RowRule], groups: RowGroups) -> Any:
    first = next(iter(outputs.values()))
    if rule is None:
        return first
    if any(output.shape != first.shape for output in outputs.values()):
        raise Unroutable(f"the adapters' outputs differ in shape: {[tuple(o.shape) for o in outputs.values()]}")
    rows = groups.of(layer, rule, first.device)
    if len(rows.adapters) == 1:
        return outputs[rows.adapters[0]]
    found = rows.found
    dim = rule.dim or 0
    flat = {name: o.reshape(-1, o.shape[-1]) if rule.dim is None else o for name, o in outputs.items()}
    parts = [flat[adapter].index_select(dim, rows) for adapter, rows in found]
    return _in_row_order(parts, found, dim).reshape(first.shape)


def _all_held(rule: Optional[RowRule], layer: Any, groups: RowGroups) -> bool:
    held = set(groups.needs(layer))
    return rule is None or all(groups.batch.names[sample] in held for sample in set(rule.owners))


def tensors_of(output: Any) -> List[Tuple[str, torch.Tensor]]:
    """Return (path, tensor) of every tensor in `output`."""
    return [(path, leaf) for path, leaf in leaves(output) if isinstance(leaf, torch.Tensor)]


def _in_row_order(parts: Sequence[Any], found: Sequence[Tuple[str, Any]], dim: int) -> torch.Tensor:
    """Return the rows of each part, one part for each adapter of `found`, where they were along `dim`."""
    shapes = [tuple(part.shape[:dim]) + tuple(part.shape[dim + 1 :]) for part in parts]
    if len(set(shapes)) > 1:
        raise Unroutable(f"the adapters' outputs differ in shape: {[tuple(part.shape) for part in parts]}")
    order = torch.cat([rows for _, rows in found]).argsort()
    return torch.cat(list(parts), dim).index_select(dim, order)
