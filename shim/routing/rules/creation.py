"""Rules of operations that make values of nothing, copy them, or draw them."""

from __future__ import annotations

import torch

from shim.routing.rules.op import Op, Result, rule


@rule(
    "zeros_like",
    "ones_like",
    "empty_like",
    "full_like",
    "rand_like",
    "randn_like",
    "randint_like",
    "new_zeros",
    "new_ones",
    "new_empty",
    "new_full",
    "new_empty_strided",
    "zero",
    "uniform",
    "random",
    "exponential",
    "geometric",
    "cauchy",
    "log_normal",
    "resize",
    "_fill_mem_eff_dropout_mask",
)
def _constant(op: Op) -> Result:
    # The value that `full_like` and `new_full` fill with is a number: its reading was noted when Python took it.
    return None


@rule("fill")
def _filled(op: Op) -> Result:
    return op.ids(op.args[1])


@rule("copy")
def _copied(op: Op) -> Result:
    return op.ids(op.args[1])


@rule("_to_copy", "lift_fresh_copy", "_conj_copy", "_neg_view_copy", "native_dropout", "_lazy_clone")
def _kept(op: Op) -> Result:
    return op.ids(op.args[0])


@rule("bernoulli")
def _drawn_by_probability(op: Op) -> Result:
    """`bernoulli(p)` and `bernoulli_(p)` of a tensor depend on it; `bernoulli_` with a number on nothing."""
    probability = op.argument("p")
    if isinstance(probability, torch.Tensor):
        return op.ids(probability)
    return op.ids(op.args[0]) if probability is None and not _in_place(op) else None


@rule("normal")
def _drawn_normal(op: Op) -> Result:
    """`normal_` overwrites what it is given; out of place the tensors among its arguments are parameters."""
    return None if _in_place(op) else op.join(*map(op.ids, op.args[:2]))


@rule("multinomial")
def _drawn_by_row(op: Op) -> Result:
    return op.reduce(op.ids(op.args[0]), [-1])


def _in_place(op: Op) -> bool:
    return bool(op.func._schema.name.endswith("_"))
