"""Rules of operations that make, copy or draw values, against brute force."""

import pytest
import torch

from tests.shim.routing.brute_force import Case, any_owners, check_any, check_declared

aten = torch.ops.aten

CASES = [
    Case("zeros_like", torch.zeros_like, "B 3", samples_in=None),
    Case("ones_like", torch.ones_like, "B 3", samples_in=None),
    Case("rand_like", torch.rand_like, "B 3", samples_in=None),
    Case("randn_like", torch.randn_like, "B 3", samples_in=None),
    Case("full_like", lambda x: torch.full_like(x, 2.0), "B 3", samples_in=None),
    Case("randint_like", lambda x: torch.randint_like(x, 5), "B 3", samples_in=None),
    Case("empty_like", lambda x: torch.empty_like(x).zero_(), "B 3", samples_in=None),
    Case("new_zeros", lambda x: x.new_zeros(2), "B 3", samples_in=None),
    Case("new_ones", lambda x: x.new_ones(2), "B 3", samples_in=None),
    Case("new_full", lambda x: x.new_full((2,), 3.0), "B 3", samples_in=None),
    Case("new_empty", lambda x: x.new_empty(2).fill_(1.0), "B 3", samples_in=None),
    Case("new_empty_strided", lambda x: x.new_empty_strided((2,), (1,)).fill_(1.0), "B 3", samples_in=None),
    Case("zero", lambda x: x.zero_(), "B 3", samples_in=None),
    Case("uniform", lambda x: x.uniform_(), "B 3", samples_in=None),
    Case("normal", lambda x: x.normal_(), "B 3", samples_in=None),
    Case("random", lambda x: x.random_(), "B 3", samples_in=None),
    Case("exponential", lambda x: x.exponential_(), "B 3", samples_in=None),
    Case("geometric", lambda x: x.geometric_(0.5), "B 3", samples_in=None),
    Case("cauchy", lambda x: x.cauchy_(), "B 3", samples_in=None),
    Case("log_normal", lambda x: x.log_normal_(), "B 3", samples_in=None),
    Case("normal", lambda x, y: torch.normal(x, y.exp()), "B 3", "B 3"),
    Case("normal", lambda x: torch.normal(x, 1.0), "B 3"),
    Case("bernoulli", lambda x: torch.bernoulli(x), "B 3 : p"),
    Case("bernoulli", lambda x: x.bernoulli_(0.3), "B 3 : p", samples_in=None),
    Case("bernoulli", lambda x, p: x.bernoulli_(p), "2 3 : p", "B : p", samples_in=1),
    Case("multinomial", lambda x: torch.multinomial(x, 2), "B 4 : p"),
    Case("fill", lambda x, y: x.fill_(y.sum()), "2 2", "B", samples_in="mixed"),
    Case("fill", lambda x: x.fill_(2.0), "B 2", samples_in=None),
    Case("copy", lambda x, y: x.copy_(y), "2 3 4", "B 1", samples_in=1),
    Case("copy", lambda x, y: x.copy_(y), "B 4", "4", samples_in=None),
    Case("_to_copy", lambda x: x.to(torch.float32), "B 4"),
    Case("_to_copy", lambda x: x.half().long(), "B 4"),
    Case("lift_fresh_copy", lambda x: aten.lift_fresh_copy(x), "B 4"),
    Case("native_dropout", lambda x: torch.native_dropout(x, 0.5, True), "B 4"),
]


@pytest.mark.parametrize("case", [case for case in CASES if case.runs_here], ids=repr)
def test_declared_owners(case):
    check_declared(case)


@pytest.mark.parametrize("case", [case for case in CASES if case.runs_here], ids=repr)
@any_owners()
def test_any_owners(case, data, seed):
    check_any(case, data, seed)
