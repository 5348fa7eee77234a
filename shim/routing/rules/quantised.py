"""Rules of the operations of bitsandbytes and quanto, whose kernels no other operation shows.

Weights have no owners. `shim.quantised` tries the layers themselves; these let a plan pass through those that it finds
to keep rows apart.
"""

from __future__ import annotations

from shim.routing.owners import Ids
from shim.routing.rules.op import Op, Result, rule


def _rows(op: Op, x: Ids, *others: str) -> Ids:
    return op.join(op.reduce(x, [-1]), *(op.total(op.ids(op.argument(name))) for name in others))


@rule("int8_vectorwise_quant")
def _to_int8(op: Op) -> Result:
    """Values, a scale for each row, and the columns with an outlier in any row, which are taken out of all."""
    ids = op.ids(op.args[0])
    if op.argument("threshold") > 0:
        return op.total(ids)
    each = op.reduce(ids, [-1])
    scales = None if each is None else each.reshape(-1)
    return [each, scales, None][: len(op.outputs)]


@rule("int8_scaled_mm", "int8_mixed_scaled_mm")
def _of_int8(op: Op) -> Result:
    """Rows of the quantised input, with their scales, and as floats where columns were taken out."""
    mixed = op.name == "int8_mixed_scaled_mm"
    scales = op.ids(op.argument("SCA" if mixed else "row_stats"))
    x = op.join(op.ids(op.argument("CA" if mixed else "A")), None if scales is None else scales.unsqueeze(-1))
    if not mixed:
        return _rows(op, x, "B", "col_stats", "bias")
    product = _rows(op, op.join(x, op.ids(op.argument("A"))), "CB", "SCB", "outlier_cols", "bias")
    return [product, op.total(op.ids(op.argument("A")))][: len(op.outputs)]


@rule("gemv_4bit", "gemm_4bit")
def _by_four_bits(op: Op) -> Result:
    return _rows(op, op.ids(op.argument("A")), "B", "absmax", "bias")


@rule("qbytes_mm")
def _by_bytes(op: Op) -> Result:
    return _rows(op, op.ids(op.args[0]), *(one.name for one in op.func._schema.arguments[1:]))


@rule("quantize_symmetric")
def _by_a_given_scale(op: Op) -> Result:
    return op.join(op.ids(op.argument("base")), op.total(op.ids(op.argument("scale"))))
