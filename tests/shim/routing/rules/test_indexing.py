"""Rules of operations that pick elements by index, by mask or by value, against brute force."""

import pytest
import torch
from torch.nn import functional as F

from tests.shim.routing.brute_force import Case, any_owners, check_any, check_declared

aten = torch.ops.aten

CASES = [
    Case("index", lambda x, i: x[:, i], "B 5", "2 3 : i5"),
    Case("index", lambda x, i, j: x[i, :, j], "4 B 5", "2 : i4", "2 : i5", samples_in=1),
    Case("index", lambda x, i, j: x[:, i, j], "B 4 5", "2 : i4", "2 : i5"),
    Case("index", lambda x, i: x[torch.arange(3), i], "B 5", "B : i5"),
    Case("index", lambda x, i: x[i], "5 2", "B 2 : i5"),
    Case("_unsafe_index", lambda x, i: aten._unsafe_index(x, [None, i]), "B 5", "2 : i5"),
    Case("index_select", lambda x, i: x.index_select(1, i), "B 5", "2 : i5"),
    Case("index_select", lambda x, i: x.index_select(0, i), "5 2", "B : i5"),
    Case("gather", lambda x, i: x.gather(1, i), "B 5", "B 2 : i5"),
    Case("gather", lambda x, i: x.gather(0, i), "4 B", "2 B : i4", samples_in=1),
    Case("take", lambda x, i: x.take(i), "4 2", "B 2 : i8"),
    Case("embedding", lambda t, i: F.embedding(i, t), "7 2", "B 3 : i7"),
    Case("embedding", lambda t, i: F.embedding(i, t), "7 B", "2 : i7", samples_in=1),
    Case("bucketize", lambda x, b: torch.bucketize(x, b), "B 3", "5 : u9"),
    Case("bucketize", lambda b: torch.bucketize(torch.tensor(1.5), b), "B : u9", samples_in="mixed"),
    Case("searchsorted", lambda b, x: torch.searchsorted(b, x), "B 4 : u9", "B 3"),
    Case("searchsorted", lambda b, x: torch.searchsorted(b, x, right=True), "4 : u9", "B 3"),
    Case("isin", lambda x, y: torch.isin(x, y), "B 3 : i5", "2 : i5"),
    Case("isin", lambda x, y: torch.isin(x, y), "3 : i5", "B : i5", samples_in="mixed"),
    Case("isin", lambda x: torch.isin(x, 2), "B 3 : i5"),
]

# torch 2.0 to 2.4 takes an index whose rows overlap in memory for an expanded one, and gathers other elements.
_OVERLAPPING = torch.tensor([0, 3, 1, 2]).as_strided((2, 3), (1, 1))
_TABLE = torch.arange(12).double().view(4, 3)
GATHER_IS_RIGHT = torch.equal(_TABLE.gather(0, _OVERLAPPING), _TABLE.gather(0, _OVERLAPPING.contiguous()))
IN_ANY_MEMORY = [case for case in CASES if GATHER_IS_RIGHT or case.names != ("gather",)]


@pytest.mark.parametrize("case", [case for case in CASES if case.runs_here], ids=repr)
def test_declared_owners(case):
    check_declared(case)


@pytest.mark.parametrize("case", [case for case in IN_ANY_MEMORY if case.runs_here], ids=repr)
@any_owners()
def test_any_owners(case, data, seed):
    check_any(case, data, seed)
