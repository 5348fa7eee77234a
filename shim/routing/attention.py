"""The rows of a multi-head attention: which dimension of each argument and output counts its samples."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import torch

from shim.errors import Unroutable
from shim.routing.owners import Lattice
from shim.routing.storage import OwnerStore

# Of torch.nn.MultiheadAttention.forward, in their order, from torch 1.13 to 2.15.
_ARGUMENTS = "query key value key_padding_mask need_weights attn_mask average_attn_weights is_causal".split()


def row_dim(layer: Any) -> int:
    """Return the dimension of queries, keys, values and their output that counts the rows."""
    return 0 if layer.batch_first else 1


def rows_of_attention(
    name: str, layer: Any, args: Sequence[Any], kwargs: Mapping[str, Any], store: OwnerStore, lattice: Lattice
) -> Tuple[torch.Tensor, int]:
    """Return the ids of the rows, of the shape (rows,) or, along dim 1, (1, rows), and who decides them.

    Raises:
        Unroutable: a tensor has no rows, or not as many as the queries.
    """
    query = args[0]
    if query.dim() != 3:
        raise Unroutable(f"{name} is called on {tuple(query.shape)}, without a dimension that counts samples")
    size = query.shape[row_dim(layer)]
    joined: List[Tuple[torch.Tensor, Optional[int]]] = []
    for argument, tensor in _tensors(args, kwargs).items():
        dim = _dim_of(name, layer, argument, tensor, size)
        # A mask for all rows is the same under every adapter, unless adapters have part in it.
        if (dim is not None or store.tainted(tensor)) and not any(tensor is other for other, _ in joined):
            joined.append((tensor, dim))
    lattice.tainted = any(store.tainted(tensor) for tensor, _ in joined)
    lattice.by_data = max(store.by_data(tensor) for tensor, _ in joined)
    rows: Any = torch.zeros(size, dtype=torch.int32, device=query.device)
    for tensor, dim in joined:
        ids = store.ids(tensor)
        if ids is not None:
            by_row = ids.reshape(1, -1) if dim is None else ids.movedim(dim, 0).reshape(size, -1)
            reduced: Any = lattice.reduce(by_row, [1])
            rows = lattice.join(rows, reduced.reshape(-1))
    return (rows.view(1, size) if row_dim(layer) else rows), lattice.by_data


def rows_taken(
    name: str, layer: Any, args: Sequence[Any], kwargs: Mapping[str, Any], rows: torch.Tensor, size: int
) -> Tuple[List[Any], Dict[str, Any]]:
    """Return the arguments with these `rows` of the `size` that there are; what was one tensor stays one."""
    taken: Dict[int, Any] = {}  # that query, key and value are one decides how torch computes
    for argument, tensor in _tensors(args, kwargs).items():
        if id(tensor) not in taken:
            dim = _dim_of(name, layer, argument, tensor, size)
            taken[id(tensor)] = tensor if dim is None else _rows_of(tensor, dim, rows, size)
    return (
        [taken.get(id(value), value) for value in args],
        {key: taken.get(id(value), value) for key, value in kwargs.items()},
    )


def _rows_of(tensor: torch.Tensor, dim: int, rows: torch.Tensor, size: int) -> torch.Tensor:
    if tensor.shape[dim] == size:
        return tensor.index_select(dim, rows)
    by_row = tensor.reshape(size, -1, *tensor.shape[1:])  # a mask by head
    return by_row.index_select(0, rows).flatten(0, 1)


def _tensors(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Dict[str, torch.Tensor]:
    """Return the tensors among the arguments by name."""
    given = {**dict(zip(_ARGUMENTS, args)), **kwargs}
    return {argument: value for argument, value in given.items() if isinstance(value, torch.Tensor)}


def _dim_of(name: str, layer: Any, argument: str, tensor: torch.Tensor, size: int) -> Optional[int]:
    """Return the dimension of a tensor that counts the rows; None for one that is of no row.

    Raises:
        Unroutable: it should count them, and does not.
    """
    if argument == "attn_mask" and tensor.dim() == 2:
        return None
    dim = row_dim(layer) if argument in _ARGUMENTS[:3] else 0
    expected = size * layer.num_heads if argument == "attn_mask" else size
    if argument not in _ARGUMENTS or tensor.dim() <= dim or tensor.shape[dim] != expected:
        raise Unroutable(
            f"{name} is called with {argument!r} of shape {tuple(tensor.shape)}, but should with {expected} along dim "
            f"{dim}"
        )
    return dim
