"""Rule of fused attention, in all its kernels."""

from __future__ import annotations

import functools
from typing import Any, List

import torch

from shim.routing.owners import CONSTANT, Ids
from shim.routing.rules.op import Op, Result, rule


@rule(
    "_scaled_dot_product_attention_math",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
)
def _attended(op: Op) -> Result:
    """A query's row is made of itself and of all keys and values that its mask lets in."""
    query, key, value = op.args[:3]
    mask = op.argument("attn_mask")
    mask = op.argument("attn_bias") if mask is None else mask
    if mask is not None and _is_misread(mask):
        return op.join(*(op.total(op.ids(tensor)) for tensor in op.read()))
    rows = op.reduce(op.ids(query), [-1])
    others = op.join(op.reduce(op.ids(key), [-1]), op.reduce(op.ids(value), [-1]))
    of_mask = op.reduce(op.ids(mask), [-1])
    joined = op.join(rows, _met(op, _for_heads(others, query.shape), mask), of_mask)
    return [_fitted(op, joined, output) for output in op.outputs]


def _is_misread(mask: torch.Tensor) -> bool:
    """Whether the kernel may take other elements of the mask than its strides say: then anything reaches anything."""
    return mask.dim() > 0 and mask.shape[-1] > 1 and mask.stride(-1) != 1 and _kernel_misreads()


@functools.lru_cache(maxsize=None)
def _kernel_misreads() -> bool:
    """Whether the kernel for CPU takes the last dimension of a mask for contiguous.

    `F.scaled_dot_product_attention` hands it no mask that is not; a call of the operation itself may.
    """
    # Breakpoint: between torch 2.6.0, which does, as 2.4.1, and 2.8.0, which does not; before 2.4 it takes no mask.
    x, mask = torch.arange(12.0).div(12).view(1, 1, 3, 4), torch.arange(9.0).view(3, 3).t()
    try:
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        one, other = (kernel(x, x, x, 0.0, False, attn_mask=some)[0] for some in (mask, mask.contiguous()))
    except (AttributeError, RuntimeError, TypeError):
        return False
    return not torch.allclose(one, other)


def _for_heads(ids: Ids, shape: Any) -> Ids:
    """Return the ids of keys, one head for several of the query's, beside the query's heads."""
    if ids is None or len(shape) < 4 or ids.shape[-3] in (1, shape[-3]):
        return ids
    return ids.repeat_interleave(shape[-3] // ids.shape[-3], -3)


def _met(op: Op, others: Ids, mask: Any) -> Ids:
    """Return the join over the keys (..., keys, 1) that each query meets."""
    if others is None:
        return None
    if mask is None or not op.lattice.varies(others, [-2]):
        return op.reduce(others, [-2])
    met = torch.where(_live(mask), others.transpose(-1, -2), CONSTANT)
    return op.reduce(met.to(torch.int32), [-1])


def _live(mask: torch.Tensor) -> torch.Tensor:
    """Return where `mask` lets a key in; a row without any key at all attends to nothing.

    A number masks by its distance from the greatest of its row: a row that is masked throughout by a finite
    number attends to all of it.
    """
    if mask.dtype is torch.bool:
        return mask
    values = mask.double()
    gap = values - values.amax(-1, keepdim=True)
    return ~((gap <= torch.finfo(mask.dtype).min / 2) | (values == -float("inf")))


def _fitted(op: Op, joined: Ids, output: torch.Tensor) -> Ids:
    """Return the ids of one output: rows, their sums, or weights over keys; seeds and counts are constant."""
    if joined is None or not output.is_floating_point():
        return None
    rows: List[int] = list(op.outputs[0].shape[:-1])
    if list(output.shape[:-1]) == rows:
        return joined
    if list(output.shape) == rows:
        return joined.squeeze(-1)
    return op.total(joined)
