"""Rules of losses: an element each without a reduction, everything with one."""

from __future__ import annotations

from shim.routing.rules.op import Op, Result, rule

_NO_REDUCTION = 0


@rule(
    "mse_loss",
    "smooth_l1_loss",
    "huber_loss",
    "soft_margin_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
)
def _of_elements(op: Op) -> Result:
    joined = op.join(*map(op.ids, [*op.args, *op.kwargs.values()]))
    return joined if _kept(op) else op.total(joined)


@rule("nll_loss_forward", "nll_loss2d_forward")
def _of_classes(op: Op) -> Result:
    """Scores are (samples, classes, ...) or (classes); the weight of all targets is not summed without a reduction."""
    scores, target = op.ids(op.args[0]), op.ids(op.args[1])
    weight = op.total(op.ids(op.argument("weight")))
    if not _kept(op) or op.args[0].dim() == 1:
        return op.join(op.total(scores), op.total(target), weight)
    each = op.reduce(scores, [1])
    return [op.join(None if each is None else each.squeeze(1), target, weight), None]


def _kept(op: Op) -> bool:
    reduction = op.argument("reduction")
    return bool(reduction == _NO_REDUCTION)
