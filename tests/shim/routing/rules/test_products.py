"""Rules of matrix products, convolutions and recurrent layers, against brute force."""

import pytest
import torch
from torch.nn import functional as F

from tests.shim.routing.brute_force import Case, any_owners, check_any, check_declared

aten = torch.ops.aten

CASES = [
    Case("mm", lambda x, w: x @ w, "B 4", "4 2"),
    Case("mm", lambda w, x: w @ x, "2 4", "4 B", samples_in=1),
    Case("bmm", lambda x, y: torch.bmm(x, y), "B 2 4", "B 4 3"),
    Case("bmm", lambda x, y: torch.bmm(x, y), "2 4 1", "2 1 B", samples_in=2),
    Case("_int_mm", lambda x, y: torch._int_mm(x.to(torch.int8), y.to(torch.int8)), "B 8 : i9", "8 8 : i9"),
    Case("addmm", lambda b, x, w: torch.addmm(b, x, w), "2", "B 4", "4 2"),
    Case("addmm", lambda b, x, w: torch.addmm(b, x, w, beta=0.5), "B 1", "3 4", "4 2"),
    Case("addmm", lambda b, x, w: b.addmm_(x, w), "B 2", "B 4", "4 2"),
    Case("_addmm_activation", lambda b, x, w: aten._addmm_activation(b, x, w), "2", "B 4", "4 2"),
    Case("baddbmm", lambda b, x, w: torch.baddbmm(b, x, w), "B 2 2", "B 2 4", "B 4 2"),
    Case("addbmm", lambda b, x, w: torch.addbmm(b, x, w), "B 2", "2 3 4", "2 4 2"),
    Case("addbmm", lambda b, x, w: torch.addbmm(b, x, w), "3 2", "2 B 4", "2 4 2"),
    Case("mv", lambda x, v: torch.mv(x, v), "B 4", "4"),
    Case("mv", lambda x, v: torch.mv(x, v), "2 B", "B", samples_in="mixed"),
    Case("addmv", lambda b, x, v: torch.addmv(b, x, v), "B", "B 4", "4"),
    Case("dot", lambda x, y: torch.dot(x, y), "B", "B", samples_in="mixed"),
    Case("vdot", lambda x, y: torch.vdot(x, y), "B : z", "B : z", samples_in="mixed"),
    Case("addr", lambda b, x, y: torch.addr(b, x, y), "B 2", "B", "2"),
    Case("addr", lambda b, x, y: torch.addr(b, x, y), "2 B", "2", "B", samples_in=1),
    Case("_trilinear", lambda x, w, y: F.bilinear(x, y, w), "B 2", "4 2 3", "B 3"),
    Case("_trilinear", lambda x, w, y: F.bilinear(x, y, w), "2 B 2", "4 2 3", "2 B 3", samples_in=1),
    Case("_cdist_forward", lambda x, y: torch.cdist(x, y), "B 2 4", "B 3 4"),
    Case("_cdist_forward", lambda x, y: torch.cdist(x, y), "2 4", "B 4", samples_in=1),
    Case("_euclidean_dist", lambda x, y: aten._euclidean_dist(x, y), "B 2 4", "B 3 4"),
    Case("convolution", lambda x, w: F.conv1d(x, w), "B 2 5", "4 2 3"),
    Case("convolution", lambda x, w, b: F.conv2d(x, w, b, padding=1, stride=2), "B 2 4 4", "4 2 3 3", "4"),
    Case("convolution", lambda x, w: F.conv1d(x, w, groups=3), "2 B 5", "3 1 3", samples_in=1),
    Case("convolution", lambda x, w: F.conv1d(x, w, groups=2, padding=1), "B 4 5", "6 2 3"),
    Case("convolution", lambda x, w: F.conv1d(x, w), "2 2 B", "4 2 1", samples_in=2),
    Case("convolution", lambda x, w: F.conv2d(x, w), "2 2 B 4", "4 2 1 3", samples_in=2),
    Case("convolution", lambda x, w: F.conv1d(x, w), "2 2 5", "B 2 3", samples_in=1),
    Case("convolution", lambda x, w: F.conv_transpose1d(x, w, stride=2), "B 2 5", "2 4 3"),
    Case("convolution", lambda x, w: F.conv_transpose1d(x, w), "2 2 5", "2 B 3", samples_in=1),
    Case("convolution", lambda x, w: F.conv_transpose2d(x, w, groups=2), "B 4 2 2", "4 3 2 2"),
    Case("convolution", lambda x, w: F.conv3d(x, w), "B 1 2 2 2", "2 1 2 2 2"),
]

WINDOWS = [
    Case("convolution", lambda x, w: F.conv1d(x, w, stride=2), "1 2 6", "4 2 2"),
    Case("convolution", lambda x, w: F.conv1d(x, w, padding=2, dilation=2), "1 2 5", "4 2 3"),
    Case("convolution", lambda x, w: F.conv2d(x, w, stride=(2, 3), padding=(1, 0)), "1 2 4 6", "4 2 3 3"),
]


@pytest.mark.parametrize("kind", [torch.nn.LSTM, torch.nn.GRU, torch.nn.RNN])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_recurrent_layers_keep_samples_apart(kind, layers, batch_first, bidirectional):
    torch.manual_seed(0)
    module = kind(2, 3, layers, batch_first=batch_first, bidirectional=bidirectional).eval()
    shape = "B 4 2" if batch_first else "4 B 2"
    outputs = 3 if kind is torch.nn.LSTM else 2

    def function(x):
        output, state = module(x.float())
        return [output, *(state if isinstance(state, tuple) else [state])]

    where = [0 if batch_first else 1] + [1] * (outputs - 1)
    check_declared(Case("", function, shape, samples_in=where))


@pytest.mark.parametrize("case", [case for case in CASES if case.runs_here], ids=repr)
def test_declared_owners(case):
    check_declared(case)


@pytest.mark.parametrize("case", [case for case in CASES + WINDOWS if case.runs_here], ids=repr)
@any_owners()
def test_any_owners(case, data, seed):
    check_any(case, data, seed)


def test_a_convolution_without_overlap_keeps_packed_pictures_apart():
    from shim.routing.tracer import Tracer

    owners = torch.tensor([1, 1, 1, 1, 2, 2, 3, 3, 3, 3], dtype=torch.int32)
    tracer = Tracer(3)
    x, weight = torch.randn(1, 3, 2, 10), torch.randn(5, 3, 2, 2)
    tracer.store.write(x, owners.expand(x.shape), tainted=True)
    with torch.no_grad(), tracer:
        y = F.conv2d(x, weight, stride=2)
    assert tracer.store.ids(y)[0, 0, 0].tolist() == [1, 1, 2, 3, 3]
