"""Rules of pooling, resampling, batch and group norm, against brute force."""

import pytest
import torch
from torch.nn import functional as F

from tests.shim.routing.brute_force import Case, any_owners, check_any, check_declared

aten = torch.ops.aten

CASES = [
    Case("max_pool2d_with_indices", lambda x: F.max_pool2d(x, 2), "B 2 4 4"),
    Case("max_pool2d_with_indices", lambda x: F.max_pool2d(x, 2, return_indices=True), "2 B 4 4", samples_in=1),
    Case("max_pool3d_with_indices", lambda x: F.max_pool3d(x, 2), "B 2 2 2 2"),
    Case("avg_pool2d", lambda x: F.avg_pool2d(x, 2), "B 2 4 4"),
    Case("avg_pool3d", lambda x: F.avg_pool3d(x, 2), "B 2 2 2 2"),
    Case("_adaptive_avg_pool2d", lambda x: F.adaptive_avg_pool2d(x, 2), "B 2 3 3"),
    Case("_adaptive_avg_pool3d", lambda x: F.adaptive_avg_pool3d(x, 2), "B 2 3 3 3"),
    Case("adaptive_max_pool2d", lambda x: F.adaptive_max_pool2d(x, 2), "B 2 3 3"),
    Case("adaptive_max_pool3d", lambda x: F.adaptive_max_pool3d(x, 2), "B 2 3 3 3"),
    Case("upsample_nearest1d", lambda x: F.interpolate(x, scale_factor=2), "B 2 3"),
    Case("upsample_nearest2d", lambda x: F.interpolate(x, scale_factor=2), "B 2 2 2"),
    Case("upsample_nearest3d", lambda x: F.interpolate(x, scale_factor=2), "B 1 2 2 2"),
    Case("_upsample_nearest_exact1d", lambda x: F.interpolate(x, 5, mode="nearest-exact"), "B 2 3"),
    Case("_upsample_nearest_exact2d", lambda x: F.interpolate(x, (5, 5), mode="nearest-exact"), "B 2 3 3"),
    Case("_upsample_nearest_exact3d", lambda x: F.interpolate(x, (3, 3, 3), mode="nearest-exact"), "B 1 2 2 2"),
    Case("upsample_linear1d", lambda x: F.interpolate(x, 5, mode="linear"), "B 2 3"),
    Case("upsample_bilinear2d", lambda x: F.interpolate(x, (5, 4), mode="bilinear"), "B 2 3 3"),
    Case("upsample_bicubic2d", lambda x: F.interpolate(x, (5, 4), mode="bicubic"), "B 2 3 3"),
    Case("upsample_trilinear3d", lambda x: F.interpolate(x, (3, 3, 3), mode="trilinear"), "B 1 2 2 2"),
    Case("_upsample_bilinear2d_aa", lambda x: F.interpolate(x, (2, 2), mode="bilinear", antialias=True), "B 2 4 4"),
    Case("_upsample_bicubic2d_aa", lambda x: F.interpolate(x, (2, 2), mode="bicubic", antialias=True), "B 2 4 4"),
    Case("grid_sampler_2d", lambda x, g: F.grid_sample(x, g, align_corners=False), "B 2 3 3", "B 2 2 2"),
    Case("grid_sampler_2d", lambda x, g: F.grid_sample(x, g, align_corners=False), "2 2 3 3", "2 B 2 2", samples_in=2),
    Case("grid_sampler_3d", lambda x, g: F.grid_sample(x, g, align_corners=False), "B 1 2 2 2", "B 2 2 2 3"),
    Case("affine_grid_generator", lambda t: aten.affine_grid_generator(t, [3, 2, 4, 4], False), "B 2 3"),
    Case(
        "native_group_norm",
        lambda x, w: torch.native_group_norm(x.contiguous(), w.contiguous(), None, 3, 4, 4, 2, 1e-5),
        "B 4 2 2",
        "4",
    ),
    Case("native_group_norm", lambda x: F.group_norm(x, 3), "2 B 4", samples_in=1),
    Case("native_group_norm", lambda x, w: F.group_norm(x, 1, w), "2 3 4", "B", samples_in=1),
    # Kernels write to running statistics as if their elements were apart.
    Case(
        "native_batch_norm",
        lambda x, m, v: torch.native_batch_norm(x, None, None, m, v, False, 0.1, 1e-5)[0],
        "B 4 2",
        "4 : n !",
        "4 : p !",
    ),
    Case(
        "native_batch_norm",
        lambda x, m, v: [*torch.native_batch_norm(x, None, None, m, v, True, 0.1, 1e-5), m, v],
        "2 B 4",
        "3 : n !",
        "3 : p !",
        samples_in=[1, 0, 0, 0, 0],
    ),
    Case(
        "native_batch_norm",
        lambda x, m, v: [*torch.native_batch_norm(x, None, None, m, v, True, 0.1, 1e-5), m, v],
        "B 2 4",
        "2 : n !",
        "2 : p !",
        samples_in="mixed",
    ),
    Case(
        "_native_batch_norm_legit",
        lambda x, w, m, v: [aten._native_batch_norm_legit(x, w, None, m, v, False, 0.1, 1e-5)[0], m, v],
        "B 4 2",
        "4",
        "4 : n !",
        "4 : p !",
        samples_in=[0, None, None],
    ),
    Case(
        "_native_batch_norm_legit",
        lambda x: aten._native_batch_norm_legit(x, None, None, True, 0.1, 1e-5),
        "2 B 4",
        samples_in=[1, 0, 0],
    ),
    Case(
        "_native_batch_norm_legit_no_training",
        lambda x, m, v: aten._native_batch_norm_legit_no_training(x, None, None, m, v, 0.1, 1e-5)[0],
        "B 4 2",
        "4 : n !",
        "4 : p !",
    ),
    Case(
        "_batch_norm_with_update",
        lambda x, m, v: [*aten._batch_norm_with_update(x, None, None, m, v, 0.1, 1e-5)[:3], m, v],
        "2 B 4",
        "3 : n !",
        "3 : p !",
        samples_in=[1, 0, 0, 0, 0],
    ),
    Case(
        "_batch_norm_no_update",
        lambda x, m, v: aten._batch_norm_no_update(x, None, None, m, v, 0.1, 1e-5)[0],
        "B 4 2",
        "4 : n !",
        "4 : p !",
    ),
]


@pytest.mark.parametrize("case", [case for case in CASES if case.runs_here], ids=repr)
def test_declared_owners(case):
    check_declared(case)


@pytest.mark.parametrize("case", [case for case in CASES if case.runs_here], ids=repr)
@any_owners()
def test_any_owners(case, data, seed):
    check_any(case, data, seed)
