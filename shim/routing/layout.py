"""Where the samples are in each output: found by running the base model whole and in parts, never guessed.

An output's row dimension is the one dimension that shrinks with the number of samples. How the samples lie
in it (one row each, blocks, tiles) is decided by the values: of the layouts that fit the shapes exactly one
may give back the parts' rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence

import torch

from shim.batch import Group
from shim.errors import RefusedError
from shim.routing.tree import VALUES, by_path, is_ours, shown

ROWS, TILES, SHARED, COUNT, CONSTANT = "rows", "tiles", "shared", "count", "constant"


@dataclass(frozen=True)
class Rule:
    """Where the samples are in one output leaf.

    kind: `rows` (sample-major: each sample's `per_sample` rows together), `tiles` (all samples, again and
        again), `shared` (one tensor for the batch), `count` (a number equal to the number of samples),
        `constant`.
    dim: the row dimension, for rows and tiles.
    single: one row per sample, for rows.
    """

    kind: str
    dim: int = 0
    single: bool = True


Layout = Mapping[str, Rule]

_MISSING: Any = object()


def find_layout(whole: Any, parts: Sequence[Any], groups: Sequence[Group]) -> Layout:
    """Return the rule of every output leaf, from one run of the whole batch and one of each group.

    Raises:
        RefusedError: an output has no samples, mixes samples, or its rows are not the parts' rows (contract
            R8, F3); the message names it and its shapes.
    """
    columns = [by_path(part) for part in parts]
    layout: Dict[str, Rule] = {}
    for path, leaf in by_path(whole).items():
        found = [column.get(path, _MISSING) for column in columns]
        if any(value is _MISSING for value in found) or any(len(c) != len(columns[0]) for c in columns):
            raise RefusedError(
                f"output {shown(path)} is there for some numbers of samples only, so it cannot be put together. Ask "
                "for fewer outputs, or run one adapter a call"
            )
        layout[path] = _rule(path, leaf, found, groups)
    return layout


def _rule(path: str, whole: Any, parts: List[Any], groups: Sequence[Group]) -> Rule:
    if not isinstance(whole, torch.Tensor):
        return _rule_of_constant(path, whole, parts, groups)
    batch = sum(len(group.rows) for group in groups)
    dims = _row_dims(whole, parts)
    if len(dims) > 1:
        raise RefusedError(
            f"output {shown(path)} mixes samples: its shape is {tuple(whole.shape)} for {batch} samples and "
            f"{tuple(parts[0].shape)} for {len(groups[0].rows)}, so no row of it belongs to one sample. "
            "Run one adapter a call"
        )
    if not dims:
        if all(same_values(part, whole) for part in parts):
            return Rule(SHARED)
        raise RefusedError(
            f"output {shown(path)} of shape {tuple(whole.shape)} has no dimension of samples, but its value depends "
            "on them. Leave it out (a loss: pass no labels, and compute it from the logits of the whole batch, which "
            "gradients flow through), or run one adapter a call"
        )
    return _rule_of_rows(path, whole, parts, groups, dims[0])


def _rule_of_constant(path: str, whole: Any, parts: List[Any], groups: Sequence[Group]) -> Rule:
    if all(same_constant(part, whole) for part in parts):
        return Rule(CONSTANT)
    counts = [len(group.rows) for group in groups]
    if type(whole) is int and whole == sum(counts) and parts == counts:
        return Rule(COUNT)
    raise RefusedError(
        f"output {shown(path)} is {brief(whole)} for the whole batch and {brief(parts[0])} for a part of it, so it "
        "cannot be put together. Ask for fewer outputs, or run one adapter a call"
    )


def brief(value: Any) -> str:
    """Return how a message shows a value: never at the length of a tensor."""
    if not isinstance(value, VALUES) and not is_ours(value):
        return f"a {type(value).__name__}"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _row_dims(whole: Any, parts: Sequence[Any]) -> List[int]:
    if any(part.dim() != whole.dim() for part in parts):
        return list(range(max(whole.dim(), 2)))
    return [d for d in range(whole.dim()) if any(part.shape[d] != whole.shape[d] for part in parts)]


def _rule_of_rows(path: str, whole: Any, parts: List[Any], groups: Sequence[Group], dim: int) -> Rule:
    batch = sum(len(group.rows) for group in groups)
    per_sample, rest = divmod(whole.shape[dim], batch)
    fits = [part.shape[dim] == per_sample * len(group.rows) for part, group in zip(parts, groups)]
    if rest or not all(fits):
        raise RefusedError(
            f"output {shown(path)} has {whole.shape[dim]} rows for {batch} samples and {parts[0].shape[dim]} for "
            f"{len(groups[0].rows)}: not the same number for each sample. Run one adapter a call"
        )
    kinds = [
        kind
        for kind in ((ROWS,) if per_sample == 1 else (ROWS, TILES))
        if all(close(part, rows_of(whole, group.rows, batch, dim, kind)) for part, group in zip(parts, groups))
    ]
    if len(kinds) == 1:
        return Rule(kinds[0], dim, per_sample == 1)
    if kinds:
        raise RefusedError(
            f"output {shown(path)} has {per_sample} rows per sample along dim {dim}, and the samples are too alike "
            "to tell how they lie there. Run a batch of different samples first, or one adapter a call"
        )
    raise RefusedError(
        f"output {shown(path)} of shape {tuple(whole.shape)} changes for a sample when other samples are left out: "
        f"the model mixes samples, or an input is not per sample. {_worst(whole, parts, groups, dim)}"
        "Pass every input with samples along dim 0, or run one adapter a call"
    )


def rows_of(whole: Any, rows: Sequence[int], batch: int, dim: int, kind: str) -> Any:
    """Return the rows of `whole` that belong to the samples `rows` of a batch of `batch`."""
    per_sample = whole.shape[dim] // batch
    samples = torch.tensor(rows, device=whole.device)
    offsets = torch.arange(per_sample, device=whole.device)
    if kind == ROWS:
        index = (samples[:, None] * per_sample + offsets).flatten()
    else:
        index = (offsets[:, None] * batch + samples).flatten()
    return whole.index_select(dim, index)


def same_values(left: Any, right: Any) -> bool:
    """Tell whether two tensors are equal, element for element; nan equals nan."""
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    equal = left == right
    if left.is_floating_point() or left.is_complex():
        equal = equal | ((left != left) & (right != right))
    return bool(equal.all())


def same_constant(left: Any, right: Any) -> bool:
    """Tell whether two leaves that are no tensors are the same."""
    if left is right:
        return True
    try:
        return type(left) is type(right) and bool(left == right)
    except (TypeError, ValueError, RuntimeError):
        return False


def close(part: Any, rows: Any) -> bool:
    """Tell whether one sample's rows, run with others and without, agree up to rounding.

    The order of summation depends on the number of rows, so floats are compared to the square root of their
    precision, relative to the largest value; everything else exactly.
    """
    if part.shape != rows.shape:
        return False
    if not (part.is_floating_point() or part.is_complex()) or same_values(part, rows):
        return same_values(part, rows)
    finite = torch.isfinite(rows)
    if not same_values(part[~finite], rows[~finite]):
        return False
    left, right = part[finite], rows[finite]
    if left.numel() == 0:
        return True
    tolerance = torch.finfo(part.dtype).eps ** 0.5
    return bool((left - right).abs().max() <= tolerance * right.abs().max())


def _worst(whole: Any, parts: Sequence[Any], groups: Sequence[Group], dim: int) -> str:
    batch = sum(len(group.rows) for group in groups)
    for part, group in zip(parts, groups):
        rows = rows_of(whole, group.rows, batch, dim, ROWS)
        if not close(part, rows):
            gap: Optional[Any] = None
            if part.is_floating_point():
                gap = (part - rows).abs().max().item()
            return f"Samples {list(group.rows)} differ by {gap}. " if gap is not None else ""
    return ""
