"""Put the outputs of the groups back together in row order, by the layout that was found for them."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence

import torch

from shim.batch import Group
from shim.errors import RefusedError
from shim.routing.layout import CONSTANT, COUNT, ROWS, SHARED, Layout, Rule, brief, rows_of, same_constant, same_values
from shim.routing.tree import by_path, map_leaves, shown


class LayoutChanged(Exception):
    """The outputs have another structure than the layout: it must be found again."""


def assemble(parts: Sequence[Any], groups: Sequence[Group], layout: Layout) -> Any:
    """Return one output for the batch from one output per group.

    Raises:
        LayoutChanged: the structure of the outputs is not the layout's.
        RefusedError: the adapters' outputs cannot stand in one tensor (contract H4), or a leaf that the batch
            shares differs by adapter (contract R8).
    """
    columns = [by_path(part) for part in parts]
    for column in columns:
        if column.keys() != layout.keys():
            raise LayoutChanged
    joined = {path: _join(path, [column[path] for column in columns], groups, rule) for path, rule in layout.items()}
    return map_leaves(lambda path, _: joined[path], parts[0])


def taken_apart(parts: Sequence[Any], groups: Sequence[Group], layout: Layout) -> List[Any]:
    """Return the output of each sample, as of a batch of one, in batch order; their sizes may differ.

    Raises:
        LayoutChanged: the structure of the outputs is not the layout's.
    """
    found: Dict[int, Any] = {}
    for part, group in zip(parts, groups):
        if by_path(part).keys() != layout.keys():
            raise LayoutChanged
        for position, sample in enumerate(group.rows):
            found[sample] = _output_of(part, position, len(group.rows), layout)
    return [found[sample] for sample in sorted(found)]


def _output_of(part: Any, position: int, count: int, layout: Layout) -> Any:
    return map_leaves(lambda path, leaf: _leaf_of(leaf, position, count, layout[path]), part)


def _leaf_of(leaf: Any, position: int, count: int, rule: Rule) -> Any:
    if isinstance(leaf, torch.Tensor) is (rule.kind in (CONSTANT, COUNT)):
        raise LayoutChanged
    if rule.kind in (CONSTANT, SHARED):
        return leaf
    if rule.kind == COUNT:
        return 1
    per_sample, rest = divmod(leaf.shape[rule.dim], count) if leaf.dim() > rule.dim else (0, 1)
    if rest or (rule.single and per_sample != 1):
        raise LayoutChanged
    return rows_of(leaf, [position], count, rule.dim, rule.kind)


def in_row_order(parts: Sequence[Any], groups: Sequence[Group], dim: int, kind: str = ROWS) -> Any:
    """Return the rows of all `parts` in batch order along `dim`; each sample has the same number of rows."""
    samples = [row for group in groups for row in group.rows]
    batch = len(samples)
    order = torch.empty(batch, dtype=torch.long)
    order[torch.tensor(samples)] = torch.arange(batch)
    per_sample = parts[0].shape[dim] // len(groups[0].rows)
    sample_axis, row_axis = (dim, dim + 1) if kind == ROWS else (dim + 1, dim)
    split = []
    for part, group in zip(parts, groups):
        sizes = {sample_axis: len(group.rows), row_axis: per_sample}
        split.append(part.reshape(*part.shape[:dim], sizes[dim], sizes[dim + 1], *part.shape[dim + 1 :]))
    whole = torch.cat(split, dim=sample_axis).index_select(sample_axis, order.to(parts[0].device))
    return whole.flatten(dim, dim + 1)


def _join(path: str, values: List[Any], groups: Sequence[Group], rule: Rule) -> Any:
    tensors = [isinstance(value, torch.Tensor) for value in values]
    if any(tensors) is not all(tensors) or any(tensors) is (rule.kind in (CONSTANT, COUNT)):
        raise LayoutChanged
    if rule.kind == CONSTANT or rule.kind == SHARED:
        same = same_constant if rule.kind == CONSTANT else same_values
        if all(same(value, values[0]) for value in values):
            return values[0]
        raise RefusedError(
            f"output {shown(path)} is one value for the whole batch, but {_by_adapter(values, groups)}. Leave it out, "
            "or run one adapter a call"
        )
    if rule.kind == COUNT:
        if values != [len(group.rows) for group in groups]:
            raise LayoutChanged
        return sum(values)
    _check_shapes(path, values, groups, rule)
    return in_row_order(values, groups, rule.dim, rule.kind)


def _check_shapes(path: str, values: List[Any], groups: Sequence[Group], rule: Rule) -> None:
    if any(value.dim() != values[0].dim() for value in values):
        raise LayoutChanged
    counts = {divmod(value.shape[rule.dim], len(group.rows)) for value, group in zip(values, groups)}
    per_sample, rest = counts.pop()
    if counts or rest or (rule.single and per_sample != 1):
        raise LayoutChanged
    others = {(*value.shape[: rule.dim], *value.shape[rule.dim + 1 :]) for value in values}
    if len(others) > 1:
        shapes: Dict[str, Any] = {g.adapter: tuple(v.shape) for g, v in zip(groups, values)}
        raise RefusedError(
            f"output {shown(path)} has a different size for each adapter, so the rows cannot stand in one tensor: "
            f"{shapes}. Pass per_sample=True to have one output for each sample, or run the adapters with heads of one "
            "size together"
        )


def _by_adapter(values: Sequence[Any], groups: Sequence[Group]) -> str:
    names = ", ".join(group.adapter for group in groups)
    values_seen = {str(value.shape) if isinstance(value, torch.Tensor) else brief(value) for value in values}
    return f"its value depends on the adapter ({names}: {', '.join(sorted(values_seen))})"
