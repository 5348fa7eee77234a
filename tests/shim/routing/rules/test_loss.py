"""Rules of losses, against brute force."""

import pytest
import torch
from torch.nn import functional as F

from tests.shim.routing.brute_force import Case, any_owners, check_any, check_declared

aten = torch.ops.aten


def elementwise(loss, reduction, samples_in):
    return Case(
        loss.__name__, lambda x, y: loss(x, y, reduction=reduction), "B 4 : p", "B 4 : p", samples_in=samples_in
    )


ELEMENTWISE = [
    F.mse_loss,
    F.smooth_l1_loss,
    F.huber_loss,
    F.soft_margin_loss,
    F.binary_cross_entropy,
    F.binary_cross_entropy_with_logits,
]
CASES = [
    *(elementwise(loss, "none", 0) for loss in ELEMENTWISE),
    *(elementwise(loss, "mean", "mixed") for loss in ELEMENTWISE),
    Case("nll_loss_forward", lambda x, y: F.nll_loss(x, y, reduction="none"), "B 4", "B : i4"),
    Case("nll_loss_forward", lambda x, y: F.cross_entropy(x, y), "B 4", "B : i4", samples_in="mixed"),
    Case(
        "nll_loss_forward",
        lambda x, y: aten.nll_loss_forward(x, y, None, 0, -100),
        "B 4",
        "B : i4",
        samples_in=[0, None],
    ),
    Case("nll_loss2d_forward", lambda x, y: F.nll_loss(x, y, reduction="none"), "B 4 2 2", "B 2 2 : i4"),
    Case("nll_loss2d_forward", lambda x, y: F.nll_loss(x, y), "B 4 2 2", "B 2 2 : i4", samples_in="mixed"),
]


@pytest.mark.parametrize("case", [case for case in CASES if case.runs_here], ids=repr)
def test_declared_owners(case):
    check_declared(case)


@pytest.mark.parametrize("case", [case for case in CASES if case.runs_here], ids=repr)
@any_owners()
def test_any_owners(case, data, seed):
    check_any(case, data, seed)
