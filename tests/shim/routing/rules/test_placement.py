"""Rules of operations that place elements by index or by mask, against brute force."""

import pytest
import torch

from tests.shim.routing.brute_force import Case, any_owners, check_any, check_declared

aten = torch.ops.aten


def put(x, indices, values, accumulate=False):
    return aten.index_put_(x, indices, values, accumulate)


CASES = [
    Case("index_put", lambda x, v, i: put(x, [None, i], v), "B 5", "B 2", "2 : i5 !"),
    Case("index_put", lambda x, v, i: put(x, [None, i], v, True), "B 5", "B 2", "2 : i5 !"),
    Case("index_put", lambda x, v, i: torch.index_put(x, [i], v), "5 B", "2 B", "2 : i5 !", samples_in=1),
    Case("index_put", lambda x, v, i: put(x, [torch.arange(3), i], v), "3 5", "1", "B : i5 !"),
    Case("index_put", lambda x, v, m: put(x, [m], v), "B 4", "1", "B 4 : b"),
    Case("index_put", lambda x, v, m: put(x, [m], v), "B 4 2", "2", "B 4 : b"),
    Case("index_put", lambda x, v, i: put(x, [i, None, i], v), "3 B 4", "2 B", "2 : i3 !", samples_in=1),
    Case("_unsafe_index_put", lambda x, v, i: aten._unsafe_index_put(x, [None, i], v), "B 5", "B 2", "2 : i5 !"),
    Case("index_add", lambda x, i, s: x.index_add(1, i, s), "B 4", "2 : i4 !", "B 2"),
    Case("index_add", lambda x, i, s: x.index_add_(0, i, s), "4 B", "6 : i4 !", "6 B", samples_in=1),
    Case("index_copy", lambda x, i, s: x.index_copy(1, i, s), "B 4", "2 : i4 !", "B 2"),
    Case("index_copy", lambda x, s: x.index_copy_(1, torch.tensor([2, 0]), s), "B 4", "B 2"),
    Case("index_fill", lambda x, i: x.index_fill(1, i, 2.0)[:, i[0]], "B 4", "2 : i4 !", samples_in=None),
    Case("index_fill", lambda x, v: x.index_fill_(1, torch.tensor([1]), v.sum()), "1 4", "B", samples_in="any"),
    Case("index_reduce", lambda x, i, s: x.index_reduce(1, i, s, "amax"), "B 4", "2 : i4 !", "B 2"),
    Case("scatter", lambda x, i, s: x.scatter(1, i, s), "B 4", "B 2 : i4 !", "B 3"),
    Case("scatter", lambda x, i: x.scatter_(1, i, 1.0), "3 4", "B 1 : i4 !"),
    Case("scatter", lambda x, i, s: x.scatter(0, i, s), "4 B", "2 B : i4 !", "2 B", samples_in=1),
    Case("scatter", lambda x, i, s: x.scatter(1, i, s, reduce="add"), "B 4", "B 2 : i4 !", "B 2"),
    Case("scatter_add", lambda x, i, s: x.scatter_add(1, i, s), "B 4", "B 2 : i4 !", "B 3"),
    Case("scatter_reduce", lambda x, i, s: x.scatter_reduce(1, i, s, "amax"), "B 4", "B 2 : i4 !", "B 3"),
    Case(
        "scatter_reduce",
        lambda x, i, s: x.scatter_reduce(1, i, s, "mean", include_self=False),
        "B 4",
        "B 2 : i4 !",
        "B 3",
    ),
    Case("put", lambda x, i, s: x.put(i, s, True).sum(1), "B 4", "2 : i4 !", "2")
    if False
    else Case("put", lambda x, i, s: x.put_(i, s), "4", "3 : i4 !", "B", samples_in="any"),
    Case("masked_scatter", lambda x, m, s: x.masked_scatter(m, s), "B 4", "4 : b !", "12"),
]


@pytest.mark.parametrize("case", [case for case in CASES if case.runs_here], ids=repr)
def test_declared_owners(case):
    check_declared(case)


@pytest.mark.parametrize("case", [case for case in CASES if case.runs_here], ids=repr)
@any_owners()
def test_any_owners(case, data, seed):
    check_any(case, data, seed)
