"""Operations that are listed as pointwise, against brute force: all that can be called with tensors alone."""

import pytest
import torch

from shim.routing.rules import RULES
from shim.routing.rules.pointwise import POINTWISE
from tests.shim.routing.brute_force import Case, any_owners, check_any, check_declared, run

aten = torch.ops.aten
CALLS = {
    "clamp": lambda f, x: f(x, -0.5, 0.5),
    "clamp_max": lambda f, x: f(x, 0.5),
    "clamp_min": lambda f, x: f(x, 0.5),
    "masked_fill": lambda f, x: f(x, x > 0.5, 2.0),
    "addcmul": lambda f, x: f(x, x, x),
    "lerp": lambda f, x: f(x, x.flip(1), 0.3),
    "where": lambda f, x: f(x > 0.5, x, x * 2),
    "polygamma": lambda f, x: aten.polygamma(1, x),
    "mvlgamma": lambda f, x: f(x + 3, 2),
    "hardtanh": lambda f, x: f(x, -0.5, 0.5),
    "threshold": lambda f, x: f(x, 0.5, 2.0),
    "frexp": lambda f, x: aten.frexp.Tensor(x),
}


def arguments(name):
    """Return a call of the operation on one tensor, of floating point or integers, or None where none is found."""
    function = getattr(aten, name)
    tries = [CALLS[name]] if name in CALLS else [lambda f, x: f(x), lambda f, x: f(x, x), lambda f, x: f(x, x, x)]
    for call in tries:
        for kind in ("p", "i7"):
            operand = Case("", lambda x: x, "B 4 : " + kind).operands[0]
            tensor = operand.draw((3, 4), torch.Generator().manual_seed(0))
            try:
                run(lambda x, call=call: call(function, x), [tensor])
            except (RuntimeError, TypeError):
                continue
            return Case(name, lambda x, call=call: call(function, x), "B 4 : " + kind)
    return None


# Random numbers are constants, so that they are drawn by other rules; `rrelu_with_noise` writes to its noise too.
SKIPPED = {"rrelu", "rrelu_with_noise", "native_dropout_backward", "clone"}
NAMES = sorted(name for name in POINTWISE - SKIPPED if hasattr(aten, name) and name not in RULES)
CASES = [case for case in map(arguments, NAMES) if case is not None]


def test_most_of_the_list_is_called():
    assert len(CASES) > 0.8 * len(NAMES), sorted(set(NAMES) - {case.names[0] for case in CASES})


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.names[0])
def test_declared_owners(case):
    case.names = ()  # a name may be made of other operations
    check_declared(case)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.names[0])
@any_owners(examples=3)
def test_any_owners(case, data, seed):
    check_any(case, data, seed)
