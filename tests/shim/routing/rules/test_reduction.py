"""Rules of sums, norms, scans, sorts and transforms, against brute force."""

import pytest
import torch
from torch.nn import functional as F

from tests.shim.routing.brute_force import Case, any_owners, check_any, check_declared

CASES = [
    Case("sum", lambda x: x.sum(-1), "B 3 4"),
    Case("sum", lambda x: x.sum((0, 2)), "2 B 4"),
    Case("sum", lambda x: x.sum(), "B 2", samples_in="mixed"),
    Case("sum", lambda x: x.sum((1, 2), keepdim=True), "B 3 4"),
    Case("nansum", lambda x: torch.nansum(x, 1), "B 3 4"),
    Case("mean", lambda x: x.mean((1, 2)), "B 3 4"),
    Case("prod", lambda x: x.prod(0), "4 B 2"),
    Case("amax", lambda x: x.amax((0, 2)), "2 B 3"),
    Case("amin", lambda x: x.amin(-1, keepdim=True), "B 3"),
    Case("aminmax", lambda x: tuple(torch.aminmax(x, dim=1)), "B 3"),
    Case("max", lambda x: tuple(x.max(1)), "B 3 2"),
    Case("max", lambda x: x.max(), "B 3", samples_in="mixed"),
    Case("min", lambda x: tuple(x.min(-1)), "B 3"),
    Case("argmax", lambda x: x.argmax(-1), "B 3 5"),
    Case("argmin", lambda x: x.argmin(1), "B 3 5"),
    Case("var", lambda x: x.var(1), "B 3 2"),
    Case("std", lambda x: x.std(-1, keepdim=True), "B 3 2"),
    Case("var_mean", lambda x: torch.var_mean(x, 2), "B 3 2"),
    Case("std_mean", lambda x: torch.std_mean(x, 2), "B 3 2"),
    Case("linalg_vector_norm", lambda x: torch.linalg.vector_norm(x, dim=-1), "B 3 2"),
    Case("norm", lambda x: torch.ops.aten.norm(x, 2, [1], True), "B 3 2"),
    Case("logsumexp", lambda x: torch.logsumexp(x, 1), "B 3 2"),
    Case("any", lambda x: (x > 0).any(1), "B 3"),
    Case("all", lambda x: (x > 0).all(-1, keepdim=True), "B 3"),
    Case("_is_all_true", lambda x: torch.ops.aten._is_all_true(x), "B 3 : b", samples_in="mixed"),
    Case("_is_any_true", lambda x: torch.ops.aten._is_any_true(x), "B 3 : b", samples_in="mixed"),
    Case("median", lambda x: tuple(x.median(1)), "B 3 2 : n !"),
    Case("nanmedian", lambda x: tuple(x.nanmedian(1)), "B 3 2 : n !"),
    Case("count_nonzero", lambda x: torch.count_nonzero(x, 1), "B 3 2 : i3"),
    Case("_log_softmax", lambda x: F.log_softmax(x, 1), "B 3 2"),
    Case("topk", lambda x: tuple(x.topk(2, -1)), "B 3"),
    Case("kthvalue", lambda x: tuple(x.kthvalue(2, 1)), "B 3 2"),
    Case("mode", lambda x: tuple(x.mode(1)), "B 3 : i4"),
    Case("_fft_r2c", lambda x: torch.fft.rfft(x), "B 4"),
    Case("_fft_c2c", lambda x: torch.fft.fft2(x), "B 4 3 : z"),
    Case("_fft_c2r", lambda x: torch.fft.irfft(x), "B 4 : z"),
    Case("native_layer_norm", lambda x, w: torch.native_layer_norm(x, (4,), w, None, 1e-5), "B 3 4", "4"),
    Case("renorm", lambda x: torch.renorm(x, 2, 0, 0.5), "B 3 4"),
    Case("_softmax", lambda x: x.softmax(-1), "B 3 4"),
    Case("_softmax", lambda x: x.softmax(1), "B 3 4"),
    Case("_safe_softmax", lambda x: torch.ops.aten._safe_softmax(x, -1), "B 3 4"),
    Case("glu", lambda x: F.glu(x, 1), "B 4 2"),
    Case("glu", lambda x: F.glu(x, 0), "4 B", samples_in=1),
    Case("cumsum", lambda x: x.cumsum(1), "B 5"),
    Case("cumsum", lambda x: x.cumsum_(1), "B 5"),
    Case("cumprod", lambda x: x.cumprod(0), "5 B", samples_in=1),
    Case("logcumsumexp", lambda x: x.logcumsumexp(-1), "B 5"),
    Case("cummax", lambda x: tuple(x.cummax(1)), "B 5"),
    Case("cummin", lambda x: tuple(x.cummin(1)), "B 5"),
    Case("sort", lambda x: tuple(x.sort(-1)), "B 5"),
    Case("sort", lambda x: torch.argsort(x, 0), "4 B", samples_in=1),
    Case("linalg_cross", lambda x, y: torch.linalg.cross(x, y), "B 2 3", "B 2 3"),
    Case("linalg_inv_ex", lambda x: tuple(torch.linalg.inv_ex(x)), "B 3 3"),
    Case(
        "linalg_solve_triangular",
        lambda a, b: torch.linalg.solve_triangular(a.triu() + 3 * torch.eye(3, dtype=a.dtype), b, upper=True),
        "B 3 3",
        "B 3 2",
    ),
    Case("linalg_solve_triangular", lambda a, b: torch.linalg.solve_triangular(a, b, upper=False), "3 3", "B 3 2"),
    Case("_linalg_solve_ex", lambda a, b: torch.linalg.solve(a, b), "B 3 3", "B 3 2"),
    Case("linalg_qr", lambda x: tuple(torch.linalg.qr(x)), "B 3 3"),
    Case("_linalg_svd", lambda x: torch.linalg.svdvals(x), "B 3 2"),
    Case("_linalg_det", lambda x: torch.linalg.det(x), "B 3 3"),
    Case("_linalg_slogdet", lambda x: tuple(torch.linalg.slogdet(x)), "B 3 3"),
    Case("_linalg_eigh", lambda x: torch.linalg.eigvalsh(x), "B 3 3"),
    Case("linalg_eig", lambda x: torch.ops.aten.linalg_eig(x), "B 2 2"),
    Case("linalg_cholesky_ex", lambda x: tuple(torch.linalg.cholesky_ex(x @ x.mT + torch.eye(3))), "B 3 3"),
    Case("linalg_lu", lambda x: tuple(torch.linalg.lu(x)), "B 3 2"),
    Case("linalg_lu_factor_ex", lambda x: tuple(torch.linalg.lu_factor_ex(x)), "B 3 3"),
    Case("linalg_matrix_exp", lambda x: torch.linalg.matrix_exp(x * 0.1), "B 2 2"),
    Case("cholesky_inverse", lambda x: torch.cholesky_inverse(x), "B 2 2"),
    Case("geqrf", lambda x: tuple(torch.geqrf(x)), "B 3 2"),
]


@pytest.mark.parametrize("case", [case for case in CASES if case.runs_here], ids=repr)
def test_declared_owners(case):
    check_declared(case)


@pytest.mark.parametrize("case", [case for case in CASES if case.runs_here], ids=repr)
@any_owners()
def test_any_owners(case, data, seed):
    check_any(case, data, seed)
