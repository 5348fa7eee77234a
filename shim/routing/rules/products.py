"""Rules of matrix products, convolutions and recurrent layers: rows of one operand meet columns of the other."""

from __future__ import annotations

from typing import List

import torch

from shim.routing.owners import CONSTANT, Ids
from shim.routing.rules.op import Op, Result, rule

# With more owners than that along the contracted dimension exact zeros are not looked for.
_MANY = 64


def _product(op: Op, left: torch.Tensor, right: torch.Tensor) -> Ids:
    """Return the ids of the matrix product of `left` and `right`, with or without batch dimensions."""
    a, b = op.ids(left), op.ids(right)
    rows = None if a is None else _contracted(op, a, right)
    columns = None if b is None else _contracted(op, b.transpose(-1, -2), left.transpose(-1, -2))
    return op.join(rows, None if columns is None else columns.transpose(-1, -2))


def _contracted(op: Op, ids: torch.Tensor, other: torch.Tensor) -> Ids:
    """Join `ids` (..., rows, inner) over the last dimension, as far as `other` (..., inner, columns) lets them in.

    A constant that is exactly zero, as a masked attention weight is, takes nothing of what it is multiplied by.
    """
    if not op.lattice.varies(ids, [-1]) or not op.intact(other):
        return op.reduce(ids, [-1])
    live = (other != 0) | (op.dense(other) != CONSTANT)
    labels = [label for label in ids.unique().tolist() if label != CONSTANT]
    if len(labels) > _MANY or bool(live.all()):
        return op.reduce(ids, [-1])
    weights = live.float()
    shares = [torch.where((ids == label).float() @ weights > 0, label, CONSTANT) for label in labels]
    joined = op.reduce(torch.stack(shares).to(torch.int32), [0])
    return None if joined is None else joined.squeeze(0)


@rule("mm", "bmm", "_int_mm")
def _multiplied(op: Op) -> Result:
    return _product(op, op.args[0], op.args[1])


@rule("addmm", "baddbmm", "_addmm_activation")
def _multiplied_and_added(op: Op) -> Result:
    return op.join(op.ids(op.args[0]), _product(op, op.args[1], op.args[2]))


@rule("addbmm")
def _summed_products(op: Op) -> Result:
    product = op.reduce(_full(_product(op, op.args[1], op.args[2]), 3), [0])
    return op.join(op.ids(op.args[0]), None if product is None else product.squeeze(0))


@rule("mv")
def _times_vector(op: Op) -> Result:
    return _of_vector(op, op.args[0], op.args[1])


@rule("addmv")
def _times_vector_and_added(op: Op) -> Result:
    return op.join(op.ids(op.args[0]), _of_vector(op, op.args[1], op.args[2]))


@rule("dot", "vdot")
def _inner(op: Op) -> Result:
    return op.join(*(op.total(op.ids(vector)) for vector in op.args[:2]))


@rule("addr")
def _outer_and_added(op: Op) -> Result:
    left, right = op.ids(op.args[1]), op.ids(op.args[2])
    return op.join(op.ids(op.args[0]), None if left is None else left.unsqueeze(1), right)


@rule("linear", "mkldnn_linear")
def _linear(op: Op) -> Result:
    weight = op.reduce(op.ids(op.args[1]), [-1])
    weight = None if weight is None else weight.squeeze(-1)
    return op.join(op.reduce(op.ids(op.args[0]), [-1]), weight, op.ids(op.argument("bias")))


@rule("_trilinear")
def _trilinear(op: Op) -> Result:
    """The product of three operands, each with dimensions put in, summed over some."""
    operands: List[Ids] = []
    for position in range(3):
        ids = op.ids(op.args[position])
        if ids is not None:
            for dim in op.args[3 + position]:
                ids = ids.unsqueeze(dim)
        operands.append(ids)
    dims = list(op.args[6])
    joined = op.reduce(op.join(*operands), dims)
    if joined is None:
        return None
    return joined.reshape([size for dim, size in enumerate(joined.shape) if dim not in dims])


@rule("_cdist_forward", "_euclidean_dist")
def _distances(op: Op) -> Result:
    rows, columns = (op.reduce(op.ids(points), [-1]) for points in op.args[:2])
    return op.join(rows, None if columns is None else columns.transpose(-1, -2))


@rule("_grouped_mm")
def _grouped(op: Op) -> Result:
    """Each row meets the matrix of its group; where the groups end is the same for all rows."""
    rows, matrices = op.args[0], op.args[1]
    if matrices.dim() != 3:
        raise ValueError("rows are summed in groups")
    others = [op.total(op.ids(op.argument(name))) for name in ("mat2", "offs", "bias")]
    return op.join(op.reduce(op.ids(rows), [-1]), *others)


@rule(
    "convolution",
    "_convolution",
    "convolution_overrideable",
    "cudnn_convolution",
    "cudnn_convolution_transpose",
    "mkldnn_convolution",
    "_conv_depthwise2d",
    "conv_depthwise3d",
)
def _convolved(op: Op) -> Result:
    """A place is made of the channels of its group, within the window that it reads."""
    image, weight, groups = op.args[0], op.args[1], _groups(op)
    if image.dim() != weight.dim():
        raise ValueError("an image without a batch")
    transposed = bool(op.argument("transposed", op.name == "cudnn_convolution_transpose"))
    result = [_of_channels(op, op.ids(image), groups, transposed), _of_filters(op, op.ids(weight), groups, transposed)]
    bias = op.ids(op.argument("bias"))
    if bias is not None:
        result.append(bias.view(1, -1, *[1] * (image.dim() - 2)))
    return op.join(*result)


@rule("mkldnn_rnn_layer")
def _recurrent(op: Op) -> Result:
    """Steps first, samples second, whatever the layer's `batch_first` is; a sample's steps and states are one."""
    steps, state, cell = op.args[0], op.argument("hx_"), op.argument("cx_")
    if op.argument("batch_sizes") or steps.dim() != 3 or state.shape[-2] != steps.shape[1]:
        raise ValueError("samples elsewhere")
    joined = op.reduce(op.ids(steps), [0, 2])
    for one in (state, cell):
        ids = op.ids(one)
        joined = op.join(joined, None if ids is None else op.reduce(ids.reshape(-1, *ids.shape[-2:]), [0, 2]))
    weights = [op.total(op.ids(one)) for one in op.args[1:5]]
    joined = op.join(joined, *weights)
    states = [joined if output.dim() == 3 or joined is None else joined.squeeze(0) for output in op.outputs[:3]]
    return states + [op.total(joined)] * (len(op.outputs) - 3)


def _of_vector(op: Op, matrix: torch.Tensor, vector: torch.Tensor) -> Ids:
    rows = op.reduce(op.ids(matrix), [-1])
    return op.join(None if rows is None else rows.squeeze(-1), op.total(op.ids(vector)))


def _full(ids: Ids, dims: int) -> Ids:
    return None if ids is None else ids.reshape([1] * (dims - ids.dim()) + list(ids.shape))


def _groups(op: Op) -> int:
    if op.name in ("_conv_depthwise2d", "conv_depthwise3d"):
        return int(op.args[0].shape[1])
    return int(op.argument("groups", 1))


def _of_channels(op: Op, ids: Ids, groups: int, transposed: bool) -> Ids:
    """Return ids (samples, output channels, ...) of what a convolution reads of its input."""
    if ids is None:
        return None
    joined = op.reduce(ids.reshape(ids.shape[0], groups, -1, *ids.shape[2:]), [2])
    for dim in range(ids.dim() - 2):
        joined = _of_windows(op, joined, dim, transposed)
    assert joined is not None
    per_group = op.outputs[0].shape[1] // groups
    repeated = joined.expand(-1, -1, per_group, *joined.shape[3:])
    return repeated.reshape(ids.shape[0], groups * per_group, *joined.shape[3:])


def _of_windows(op: Op, ids: Ids, dim: int, transposed: bool) -> Ids:
    """Join ids (samples, groups, 1, ...) over the places along spatial dimension `dim` that an output's place reads."""
    at = dim + 3

    def setting(name: str, otherwise: int) -> int:
        value = op.argument(name)
        return otherwise if value is None else int(value[dim if len(value) > 1 else 0])

    if transposed or ids is None or not op.lattice.varies(ids, [at]):
        return op.reduce(ids, [at])
    padding, dilation = setting("padding", 0), setting("dilation", 1)
    reach = (op.args[1].shape[dim + 2] - 1) * dilation + 1
    edges = [0, 0] * (ids.dim() - 1 - at) + [padding, padding]
    windows = torch.nn.functional.pad(ids, edges).unfold(at, reach, setting("stride", 1))[..., ::dilation]
    if windows.shape[at] != op.outputs[0].shape[dim + 2]:
        return op.reduce(ids, [at])
    joined = op.reduce(windows, [-1])
    return None if joined is None else joined.squeeze(-1)


def _of_filters(op: Op, ids: Ids, groups: int, transposed: bool) -> Ids:
    """Return ids (1, output channels, ...) of what a convolution reads of its weight."""
    if ids is None:
        return None
    tail = [1] * (ids.dim() - 2)
    if not transposed:
        joined = op.reduce(ids.reshape(ids.shape[0], -1), [1])
        return None if joined is None else joined.view(1, -1, *tail)
    joined = op.reduce(ids.reshape(groups, ids.shape[0] // groups, ids.shape[1], -1), [1, 3])
    return None if joined is None else joined.reshape(1, -1, *tail)
