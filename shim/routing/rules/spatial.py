"""Rules of operations over places: pooling, resampling, batch and group norm."""

from __future__ import annotations

import torch

from shim.routing.owners import Ids
from shim.routing.rules.op import RULES, Op, Result, rule


def _pooling(places: int) -> None:
    """Register the rule of what pools or resamples the last `places` dimensions: a channel is one."""

    def pooled(op: Op) -> Result:
        return op.reduce(op.ids(op.args[0]), list(range(-places, 0)))

    for name in _POOLS[places].split():
        RULES[name] = pooled


_RUNNING = ["running_mean", "running_var"]
_POOLS = {
    1: """max_pool1d avg_pool1d adaptive_avg_pool1d upsample_nearest1d _upsample_nearest_exact1d upsample_linear1d""",
    2: """max_pool2d_with_indices mkldnn_max_pool2d avg_pool2d _adaptive_avg_pool2d adaptive_avg_pool2d
    mkldnn_adaptive_avg_pool2d adaptive_max_pool2d upsample_nearest2d _upsample_nearest_exact2d
    upsample_bilinear2d _upsample_bilinear2d_aa upsample_bicubic2d _upsample_bicubic2d_aa
    _upsample_lanczos2d_aa""",
    3: """max_pool3d_with_indices mkldnn_max_pool3d avg_pool3d _adaptive_avg_pool3d adaptive_avg_pool3d
    adaptive_max_pool3d upsample_nearest3d _upsample_nearest_exact3d upsample_trilinear3d""",
}
for _places in _POOLS:
    _pooling(_places)


@rule("grid_sampler_2d", "grid_sampler_3d", "_grid_sampler_2d_cpu_fallback", "cudnn_grid_sampler")
def _sampled(op: Op) -> Result:
    """A place is made of the whole channel and of its own coordinates."""
    image, grid = op.ids(op.args[0]), op.reduce(op.ids(op.args[1]), [-1])
    channel = None if image is None else op.reduce(image, list(range(2, image.dim())))
    return op.join(channel, None if grid is None else grid.movedim(-1, 1))


@rule("affine_grid_generator", "cudnn_affine_grid_generator")
def _grid(op: Op) -> Result:
    joined = op.reduce(op.ids(op.args[0]), [1, 2])
    return None if joined is None else joined.view(-1, *[1] * (op.outputs[0].dim() - 1))


@rule("native_group_norm")
def _group_normalised(op: Op) -> Result:
    """A group of channels of one sample is one; the statistics are (samples, groups)."""
    ids = op.ids(op.args[0])
    samples, groups = int(op.argument("N")), int(op.argument("group"))
    affine = op.join(_of_channels(op, "weight"), _of_channels(op, "bias"))
    if ids is None:
        return [affine, None, None]
    joined = op.reduce(ids.reshape(samples, groups, -1), [2])
    assert joined is not None
    each = joined.expand(samples, groups, ids.shape[1] // groups).reshape(samples, ids.shape[1])
    each = each.view(samples, ids.shape[1], *[1] * (ids.dim() - 2))
    return [op.join(each, affine), joined.squeeze(-1), joined.squeeze(-1)]


@rule(
    "native_batch_norm",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training",
    "_batch_norm_with_update",
    "_batch_norm_no_update",
    "cudnn_batch_norm",
)
def _batch_normalised(op: Op) -> Result:
    """With the statistics of the batch a channel is one, all samples together; with those it was given, not.

    After the outputs come the running statistics, which training writes to.
    """
    image = op.args[0]
    ids = op.ids(image)
    training = op.name == "_batch_norm_with_update" or bool(op.argument("training", False))
    training = training or op.argument("running_mean") is None
    if training:
        ids = op.reduce(ids, [dim for dim in range(image.dim()) if dim != 1])
    given = [] if training else _RUNNING
    output = op.join(ids, *(_of_channels(op, name) for name in ["weight", "bias", *given]))
    of_batch = op.join(_flat(ids) if training else None, *(op.ids(op.argument(name)) for name in given))
    statistics = [of_batch if one.dim() == 1 and one.numel() == image.shape[1] else op.total(ids) for one in op.outputs]
    if len(op.results) == len(op.outputs):
        return [output, *statistics[1:]]
    running = [op.join(op.ids(op.argument(name)), of_batch if training else None) for name in _RUNNING]
    return [output, *statistics[1:], *running]


def _of_channels(op: Op, name: str) -> Ids:
    ids = op.ids(op.argument(name))
    return None if ids is None else ids.view(1, -1, *[1] * (op.args[0].dim() - 2))


def _flat(ids: Ids) -> Ids:
    return None if ids is None else torch.reshape(ids, (-1,))
