"""Rules of operations that make an element of a whole dimension: sums, softmax, norms, scans, sorts, transforms."""

from __future__ import annotations

from typing import List

import torch

from shim.routing.owners import Ids
from shim.routing.rules.op import Op, Result, rule


def without(joined: Ids, dims: List[int], output: torch.Tensor) -> Ids:
    """Return `joined`, whose `dims` have size 1, without them if `output` lost them."""
    if joined is None or output.dim() == joined.dim():
        return joined
    kept = [size for dim, size in enumerate(joined.shape) if dim not in dims]
    return joined.reshape(kept)


@rule(
    "sum",
    "nansum",
    "mean",
    "prod",
    "amax",
    "amin",
    "aminmax",
    "_aminmax",
    "argmax",
    "argmin",
    "var",
    "std",
    "var_mean",
    "std_mean",
    "linalg_vector_norm",
    "norm",
    "logsumexp",
    "any",
    "all",
    "_is_all_true",
    "_is_any_true",
    "median",
    "nanmedian",
    "count_nonzero",
    "log_softmax",
    "_log_softmax",
    "topk",
    "kthvalue",
    "mode",
    "_fft_r2c",
    "_fft_c2c",
    "_fft_c2r",
    "hash_tensor",
)
def _reduced(op: Op) -> Result:
    dims = op.dims()
    joined = op.reduce(op.ids(op.args[0]), dims)
    return [without(joined, dims, output) for output in op.outputs]


@rule("max", "min")
def _extreme(op: Op) -> Result:
    if len(op.args) > 1 and isinstance(op.args[1], torch.Tensor):
        return op.join(op.ids(op.args[0]), op.ids(op.args[1]))
    return _reduced(op)


@rule("native_layer_norm", "_fused_rms_norm")
def _normalised(op: Op) -> Result:
    """The statistics, if returned, keep their dimensions; weight and bias do not reach them."""
    joined = op.reduce(op.ids(op.args[0]), op.dims())
    affine = op.join(op.ids(op.argument("weight")), op.ids(op.argument("bias")))
    return [op.join(joined, affine)] + [joined] * (len(op.outputs) - 1)


@rule("renorm")
def _renormed(op: Op) -> Result:
    ids = op.ids(op.args[0])
    if ids is None:
        return None
    kept = op.argument("dim") % ids.dim()
    return op.reduce(ids, [dim for dim in range(ids.dim()) if dim != kept])


@rule("_softmax", "softmax", "_safe_softmax")
def _softmaxed(op: Op) -> Result:
    """An entry that was masked, and whose probability came out zero, takes part in nothing."""
    scores, output = op.args[0], op.outputs[0]
    ids, dims = op.ids(scores), op.dims()
    if ids is None or not op.lattice.varies(ids, dims) or not op.intact(scores) or not scores.is_floating_point():
        return op.reduce(ids, dims)
    masked = (scores <= torch.finfo(scores.dtype).min / 2) & (output == 0)
    joined = op.reduce(torch.where(masked, 0, ids).to(torch.int32), dims)
    assert joined is not None
    return torch.where(masked, 0, joined).to(torch.int32)


@rule("glu")
def _gated(op: Op) -> Result:
    ids, dim = op.ids(op.args[0]), op.argument("dim")
    return None if ids is None else op.join(*ids.chunk(2, dim))


@rule("cumsum", "cumprod", "logcumsumexp", "cummax", "cummin")
def _scanned(op: Op) -> Result:
    """An element is made of those before it. Hints are dropped where they clash, so they are joined as one."""
    ids = op.ids(op.args[0])
    if ids is None or ids.dim() == 0:
        return ids
    dim = op.argument("dim") % ids.dim()
    if not op.lattice.tainted or not op.lattice.varies(ids, [dim]):
        return op.reduce(ids, [dim])
    size, step = ids.shape[dim], 1
    while step < size:
        later = op.join(ids.narrow(dim, step, size - step), ids.narrow(dim, 0, size - step))
        assert later is not None
        ids = torch.cat([ids.narrow(dim, 0, step), later], dim)
        step *= 2
    return ids


@rule("sort")
def _sorted(op: Op) -> Result:
    """An element belongs to the sample that it came from: integers are keys, and rows go back by the same keys.

    A place in an order of numbers that adapters change tells of all samples (a capacity, a rank), and is joined.
    """
    ids = op.ids(op.args[0])
    if ids is None or ids.dim() == 0:
        return ids
    dim = op.argument("dim") % ids.dim()
    same = op.lattice.uniform(ids, [dim])
    if same is not None:
        return same
    if op.lattice.tainted and op.args[0].is_floating_point():
        return op.reduce(ids, [dim])
    op.lattice.by_data = True
    return ids.gather(dim, op.outputs[-1])


@rule("linalg_cross")
def _crossed(op: Op) -> Result:
    dim = op.argument("dim")
    return op.join(*(op.reduce(op.ids(tensor), [dim]) for tensor in op.args[:2]))


@rule(
    "linalg_inv_ex",
    "linalg_cholesky_ex",
    "linalg_qr",
    "_linalg_svd",
    "_linalg_eigh",
    "linalg_eig",
    "linalg_eigvals",
    "_linalg_eigvals",
    "_linalg_det",
    "_linalg_slogdet",
    "linalg_lu",
    "linalg_lu_factor_ex",
    "linalg_matrix_exp",
    "cholesky",
    "cholesky_inverse",
    "geqrf",
)
def _of_matrix(op: Op) -> Result:
    """Everything that is known of a matrix is made of the whole of it; batches of matrices stay apart."""
    joined = op.reduce(op.ids(op.args[0]), [-2, -1])
    if joined is None:
        return None
    batch = joined.shape[:-2]
    if any(output.shape[: len(batch)] != batch for output in op.outputs if output.numel()):
        raise ValueError("an output that has lost the batch")
    return [joined.reshape(*batch, *[1] * (output.dim() - len(batch))) for output in op.outputs]


@rule("linalg_solve_triangular", "_linalg_solve_ex")
def _solved(op: Op) -> Result:
    """A solution is made of its whole matrix and all right sides; batches of systems stay apart."""
    systems = [one for one in op.args if isinstance(one, torch.Tensor)]
    if op.name == "_linalg_solve_ex" and len({one.dim() for one in systems}) > 1:
        raise ValueError("a vector on the right")
    joined = op.join(*(op.reduce(op.ids(one), [-2, -1]) for one in systems))
    if joined is None:
        return None
    batch = joined.shape[:-2]
    return [joined.reshape(*batch, *[1] * (output.dim() - len(batch))) for output in op.outputs]
