"""Rules of operations that move elements and make none: the same operation, run on the ids, moves those."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_map

from shim.routing.owners import Ids
from shim.routing.rules.op import Op, Result, rule


def moved(op: Op, dtype: torch.dtype = torch.int32) -> Result:
    """Run `op` on the ids of its tensors, held in `dtype`, and return the ids of its outputs."""

    def as_ids(leaf: Any) -> Any:
        return op.dense(leaf).to(dtype) if isinstance(leaf, torch.Tensor) else leaf

    arguments = op.func._schema.arguments
    written = {one.name for one in arguments if one.alias_info is not None and one.alias_info.is_write}
    kwargs = {name: value for name, value in op.kwargs.items() if name not in written}
    packet = getattr(torch.ops.aten, op.name) if written else op.func
    result = packet(*tree_map(as_ids, list(op.args)), **tree_map(as_ids, kwargs))
    if isinstance(result, torch.Tensor):
        return result.to(torch.int32)
    return [one.to(torch.int32) for one in result]


@rule(
    "cat",
    "stack",
    "_stack",
    "block_diag",
    "roll",
    "flip",
    "rot90",
    "repeat",
    "tril",
    "triu",
    "diag_embed",
    "slice_scatter",
    "select_scatter",
    "diagonal_scatter",
    "alias_copy",
    "detach_copy",
    "diagonal_copy",
    "expand_copy",
    "narrow_copy",
    "permute_copy",
    "select_copy",
    "slice_copy",
    "split_copy",
    "split_with_sizes_copy",
    "squeeze_copy",
    "t_copy",
    "transpose_copy",
    "unbind_copy",
    "unfold_copy",
    "unsqueeze_copy",
    "view_copy",
    "_reshape_copy",
    "unsafe_split",
    "unsafe_split_with_sizes",
)
def _moved_as_integers(op: Op) -> Result:
    return moved(op)


@rule(
    "im2col",
    "channel_shuffle",
    "native_channel_shuffle",
    "pixel_shuffle",
    "pixel_unshuffle",
    "reflection_pad1d",
    "reflection_pad2d",
    "reflection_pad3d",
    "replication_pad1d",
    "replication_pad2d",
    "replication_pad3d",
)
def _moved_as_numbers(op: Op) -> Result:
    # Kernels that know floating point only; a double holds every id exactly.
    return moved(op, torch.float64)


@rule("constant_pad_nd")
def _padded(op: Op) -> Result:
    return torch.constant_pad_nd(op.dense(op.args[0]), op.args[1], 0)


@rule("col2im")
def _folded(op: Op) -> Result:
    """A patch holds the elements of one channel; patches overlap, so a channel is joined as a whole."""
    ids = op.ids(op.args[0])
    if ids is None:
        return None
    kernel = op.argument("kernel_size")
    area = kernel[0] * kernel[1]
    *batch, rows, places = ids.shape
    return op.reduce(ids.reshape(*batch, rows // area, area, places), [-2, -1])


@rule("unfold_backward")
def _unfolded_back(op: Op) -> Result:
    """The sum of overlapping windows, as an inverse short-time Fourier transform takes it."""
    ids = op.ids(op.args[0])
    if ids is None:
        return None
    joined = op.reduce(ids, [op.argument("dim") % (ids.dim() - 1), -1])
    return None if joined is None else joined.squeeze(-1)


@rule("view_as_real_copy")
def _as_real(op: Op) -> Result:
    ids = op.ids(op.args[0])
    return None if ids is None else ids.unsqueeze(-1)


@rule("view_as_complex_copy")
def _as_complex(op: Op) -> Result:
    joined = op.reduce(op.ids(op.args[0]), [-1])
    return None if joined is None else joined.squeeze(-1)


@rule("_pack_padded_sequence")
def _packed(op: Op) -> Result:
    """Rows of a sequence go where the lengths say; `batch_sizes` counts over all of them."""
    lengths: torch.Tensor = op.args[1]
    packed: Ids = torch._pack_padded_sequence(
        op.join(op.dense(op.args[0]), _per_sequence(op)).double(),  # type: ignore[union-attr]
        lengths,
        op.argument("batch_first"),
    )[0].to(torch.int32)
    if op.lattice.varies(op.ids(lengths), [0]):
        op.lattice.by_data = True
    return [packed, op.total(op.ids(lengths))]


def _per_sequence(op: Op) -> Ids:
    ids = op.ids(op.args[1])
    if ids is None:
        return None
    shape = [1] * op.args[0].dim()
    shape[0 if op.argument("batch_first") else 1] = -1
    return ids.to(op.args[0].device).view(shape)
