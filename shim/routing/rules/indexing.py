"""Rules of operations that pick elements by index, by mask or by value.

An index that is the same for all adapters moves elements, and their owners with them. Where an index of several
samples picks among elements of several, data decides who owns what, and the rule says so.
"""

from __future__ import annotations

from typing import Any, List, Optional, Sequence, Tuple

import torch

from shim.routing.owners import Ids
from shim.routing.rules.op import Op, Result, rule

Key = Tuple[Any, ...]

MASKS = (torch.bool, torch.uint8)


def key_of(op: Op, indices: Sequence[Any]) -> Tuple[Key, Ids]:
    """Return `indices` with masks as coordinates, and the ids of the indices together; broadcast ids."""
    key: List[Any] = []
    found: List[Ids] = []
    for index in indices:
        ids = op.ids(index)
        if index is None:
            key.append(slice(None))
        elif index.dtype not in MASKS:
            key.append(index)
            found.append(ids)
        elif index.dim() == 0:
            raise ValueError("a mask of a single element")
        else:
            key += index.nonzero(as_tuple=True)
            found.append(None if ids is None else ids[index != 0])
    return tuple(key), op.join(*found)


def placed(of_index: Ids, key: Key, dims: int) -> Ids:
    """Return the ids of an index where `source[key]` has the dimensions of the index; `source` has `dims`."""
    if of_index is None:
        return None
    at = [dim for dim, one in enumerate(key) if isinstance(one, torch.Tensor)]
    shape = torch.broadcast_shapes(*(key[dim].shape for dim in at))
    adjacent = at[-1] - at[0] + 1 == len(at)
    front = at[0] if adjacent else 0
    rest = dims - len(at) - front
    return of_index.expand(shape).reshape([1] * front + list(shape) + [1] * rest)


def owned(ids: Ids) -> bool:
    """Whether anything has an owner."""
    return ids is not None and bool(ids.any())


def hangs_on_data(op: Op, index: Any) -> bool:
    """Whether the values of `index` are made of inputs, though no one sample's: then it is no constant of the model."""
    return op.ids(index) is not None


def along(ids: Ids, dim: int, dims: int) -> Ids:
    """Return the ids of a one-dimensional index as they lie along `dim` of `dims` dimensions."""
    return None if ids is None else ids.view([-1 if at == dim else 1 for at in range(dims)])


def _note_choice(op: Op, source: Any, index: Any, dims: Sequence[int]) -> None:
    """Note that data decides if an index made of inputs picks along dimensions where the owners of `source` vary."""
    if op.lattice.varies(op.ids(source), dims) and hangs_on_data(op, index):
        op.lattice.by_data = True


@rule("index", "_unsafe_index")
def _indexed(op: Op) -> Result:
    source, indices = op.args[0], op.args[1]
    dim = 0
    for index in indices:
        count = index.dim() if index is not None and index.dtype in MASKS else 1
        _note_choice(op, source, index, range(dim, dim + count))
        if index is not None and index.dtype in MASKS and op.lattice.varies(op.ids(index), range(count)):
            op.lattice.by_data = True
        dim += count
    key, of_index = key_of(op, indices)
    ids = op.ids(source)
    return op.join(None if ids is None else ids[key], placed(of_index, key, source.dim()))


@rule("index_select")
def _selected(op: Op) -> Result:
    source, dim, index = op.args[:3]
    ids, of_index = op.ids(source), op.ids(index)
    if source.dim() == 0:
        return op.join(ids, op.total(of_index))
    dim %= source.dim()
    _note_choice(op, source, index, [dim])
    return op.join(None if ids is None else ids.index_select(dim, index), along(of_index, dim, source.dim()))


@rule("gather")
def _gathered(op: Op) -> Result:
    source, dim, index = op.args[:3]
    ids = op.ids(source)
    if source.dim():
        _note_choice(op, source, index, [dim])
    return op.join(None if ids is None else ids.gather(dim, index), op.ids(index))


@rule("take")
def _taken(op: Op) -> Result:
    source, index = op.args[:2]
    ids = op.ids(source)
    _note_choice(op, source, index, range(source.dim()))
    return op.join(None if ids is None else ids.reshape(-1).take(index), op.ids(index))


@rule("embedding")
def _embedded(op: Op) -> Result:
    table, index = op.args[:2]
    ids, of_index = op.ids(table), op.ids(index)
    _note_choice(op, table, index, [0])
    return op.join(None if ids is None else ids[index], None if of_index is None else of_index.unsqueeze(-1))


@rule("nonzero")
def _found(op: Op) -> Result:
    """The coordinates of an element belong to whom the element does; what comes before it, data decides."""
    source = op.args[0]
    ids = op.ids(source)
    if ids is None or source.dim() == 0:
        return None if ids is None else ids.reshape(1, 1)
    if op.lattice.varies(ids, range(ids.dim())):
        op.lattice.by_data = True
    return ids[source != 0].unsqueeze(-1)


@rule("masked_select")
def _selected_by_mask(op: Op) -> Result:
    source, mask = op.args[:2]
    joined = op.join(op.ids(source), op.ids(mask))
    if joined is None:
        return None
    shape = torch.broadcast_shapes(source.shape, mask.shape)
    if op.lattice.varies(joined, range(joined.dim())):
        op.lattice.by_data = True
    return joined.expand(shape)[mask.expand(shape)]


@rule("bucketize", "searchsorted")
def _bucketed(op: Op) -> Result:
    """Each value is held against a whole row of bounds; `searchsorted` names them in the other order."""
    values, bounds = op.args[:2] if op.name == "bucketize" else op.args[1::-1]
    of_bounds = op.join(op.ids(bounds), op.ids(op.argument("sorter")))
    if bounds.dim() == 1:
        of_bounds = op.total(of_bounds)
    return op.join(op.ids(values), op.reduce(of_bounds, [-1]))


@rule("isin")
def _contained(op: Op) -> Result:
    return op.join(op.ids(op.args[0]), op.total(op.ids(op.args[1])))


@rule("repeat_interleave")
def _repeated(op: Op) -> Result:
    """Place p of the result is the number of the entry that covers it, whose owner it has."""
    ids: Optional[torch.Tensor] = op.ids(op.args[0])
    if ids is None:
        return None
    if op.lattice.varies(ids, [0]):
        op.lattice.by_data = True
    return ids.repeat_interleave(op.args[0])
