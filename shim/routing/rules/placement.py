"""Rules of operations that place elements by index or by mask into a tensor.

A place is made of what was put there. It is also made of an index that could have reached it: of a mask at its
own position, and of an index all along the dimension that it picks from if one sample alone owns the index
there. Where several do, data decides, and the rule says so: also where the rows happen to fall on places of their
own sample's in this call, since in the next they may not.
"""

from __future__ import annotations

from typing import Any, List, Sequence

import torch

from shim.routing.owners import CONSTANT, Ids
from shim.routing.rules.indexing import MASKS, Key, along, hangs_on_data, key_of, owned, placed
from shim.routing.rules.op import Op, Result, rule


@rule("index_put", "_index_put_impl", "_unsafe_index_put")
def _put(op: Op) -> Result:
    target, indices, values = op.args[:3]
    before, given = op.dense(target), op.lattice.by_data
    if any(hangs_on_data(op, index) for index in indices):
        op.lattice.by_data = True
    key, of_index = key_of(op, indices)
    sources = op.join(op.ids(values), placed(of_index, key, target.dim()))
    result = _spread(op, before, _positions(target)[key], sources, replace=not op.argument("accumulate"))
    masks = [index for index in indices if index is not None and index.dtype in MASKS]
    reach = None if masks else _reached(op, target, key, of_index, [op.ids(index) for index in indices])
    if reach is not None:
        op.lattice.by_data = given
    elif masks and _moves_no_owner(op, target, values, *indices):
        op.lattice.by_data = op.by_data(target)
    return op.join(result, reach, *_masks(op, target, indices))


def _moves_no_owner(op: Op, target: Any, values: Any, *indices: Any) -> bool:
    """Whether places have the same owners wherever masks are true: nobody owns the values, or one sample owns all."""
    if not owned(op.ids(values)):
        return all(index is None or index.dtype in MASKS for index in indices)
    found = [op.ids(one) for one in (target, values, *indices)]
    owners = {int(owner) for ids in found if ids is not None for owner in ids.unique().tolist()} - {CONSTANT}
    return len(owners) == 1


def _masks(op: Op, target: torch.Tensor, indices: Sequence[Any]) -> List[Ids]:
    """Return the ids of the masks among `indices`, each where it lies in `target`."""
    found: List[Ids] = []
    dim = 0
    for index in indices:
        mask = index is not None and index.dtype in MASKS
        ids = op.ids(index)
        if mask and ids is not None:
            found.append(ids.reshape([1] * dim + list(ids.shape) + [1] * (target.dim() - dim - ids.dim())))
        dim += index.dim() if mask else 1
    return found


def _reached(op: Op, target: torch.Tensor, key: Key, of_index: Ids, each: Sequence[Ids]) -> Ids:
    """Return `of_index` wherever the indices that have owners could point, or None if several samples' could."""
    if not owned(of_index) or any(index is not None and op.by_data(index) for index in op.args[1]):
        return None
    free = [dim for dim, ids in enumerate(each) if owned(ids)]
    shape = [1 if dim in free else size for dim, size in enumerate(target.shape)]
    fixed = tuple(torch.zeros_like(index) if dim in free else index for dim, index in enumerate(key))
    reach = torch.zeros(shape, dtype=torch.int32, device=target.device)
    positions = _positions(reach)[fixed]
    sources = placed(of_index, key, target.dim()).expand(positions.shape)  # type: ignore[union-attr]
    reach.view(-1)[positions] = sources
    return reach if torch.equal(reach.view(-1)[positions], sources) else None


@rule("index_add", "index_copy", "index_fill", "index_reduce")
def _placed_along(op: Op) -> Result:
    target, dim, index, source = op.args[:4]
    if target.dim() == 0:
        return op.join(*(op.total(op.ids(one)) for one in (target, index, source)))
    dim %= target.dim()
    of_index = along(op.ids(index), dim, target.dim())
    positions = _positions(target).index_select(dim, index)
    sources = op.join(op.ids(source), of_index)
    result = _spread(op, op.dense(target), positions, sources, replace=op.name in ("index_copy", "index_fill"))
    return op.join(result, _anywhere(op, index, of_index, dim))


@rule("scatter", "scatter_add", "scatter_reduce")
def _scattered(op: Op) -> Result:
    target, dim, index, source = op.args[:4]
    of_index, of_source = op.ids(index), op.ids(source)
    if target.dim() == 0:
        return op.join(*(op.total(op.ids(one)) for one in (target, index, source)))
    dim %= target.dim()
    if of_source is not None and of_source.dim():
        of_source = of_source[tuple(slice(0, size) for size in index.shape)]
    positions = _positions(target).gather(dim, index)
    replace = op.name == "scatter" and op.argument("reduce") is None
    result = _spread(op, op.dense(target), positions, op.join(of_source, of_index), replace)
    reach = _anywhere(op, index, of_index, dim)
    if reach is not None:
        covered = tuple(slice(None) if at == dim else slice(0, size) for at, size in enumerate(index.shape))
        result = result.clone()
        result[covered] = torch.as_tensor(op.join(result[covered], reach))
    return result


@rule("put")
def _put_flat(op: Op) -> Result:
    target, index, source = op.args[:3]
    of_index, of_source = op.ids(index), op.ids(source)
    sources = op.join(
        None if of_source is None else of_source.reshape(-1), None if of_index is None else of_index.reshape(-1)
    )
    positions = index.reshape(-1) % max(target.numel(), 1)
    result = _spread(op, op.dense(target), positions, sources, replace=not op.argument("accumulate"))
    return op.join(result, _anywhere(op, index, None if of_index is None else of_index.reshape(-1), 0))


@rule("masked_scatter")
def _scattered_by_mask(op: Op) -> Result:
    """The next element of the source goes to the next place of the mask, which settles who owns it."""
    target, mask, source = op.args[:3]
    before, of_mask = op.dense(target), op.dense(mask).expand(target.shape)
    where = mask.expand(target.shape)
    if hangs_on_data(op, mask):
        op.lattice.by_data = op.by_data(target) if _moves_no_owner(op, target, source, mask) else True
    flat = op.dense(source).reshape(-1)[: int(where.sum())]
    result = before.clone()
    result[where] = torch.as_tensor(op.join(before[where], of_mask[where], flat))
    return op.join(result, of_mask)


def _positions(target: torch.Tensor) -> torch.Tensor:
    """Return the number of every element of `target`, in its shape."""
    return torch.arange(target.numel(), device=target.device).view(target.shape)


def _spread(op: Op, before: torch.Tensor, positions: torch.Tensor, sources: Ids, replace: bool) -> torch.Tensor:
    """Return `before` with `sources` put, or joined in, at the flat `positions`, of which some may coincide."""
    result = before.contiguous().clone().view(-1)
    if sources is None:
        sources = torch.zeros((), dtype=torch.int32, device=result.device)
    values = sources.expand(positions.shape)
    if replace:
        result[positions] = values
        if torch.equal(result[positions], values):
            return result.view(before.shape)
        result[positions] = CONSTANT
    return op.lattice.spread(result, positions, values).view(before.shape)


def _anywhere(op: Op, index: torch.Tensor, of_index: Ids, dim: int) -> Ids:
    """Return the join of an index over `dim`, which it points along, or None, noting it, if several own it there.

    None as well where data chose the index's owner: then it is one of several samples' that points at its own rows;
    and where it is made of several samples' inputs together.
    """
    if of_index is None:
        return None
    joined = None if op.by_data(index) or not owned(of_index) else op.lattice.uniform(of_index, [dim])
    if joined is None and of_index.numel():
        op.lattice.by_data = True
    return joined
