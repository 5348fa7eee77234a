"""The hooks by which a generate is told of its model's calls, met by another thread."""

import torch

from shim.routing.generate_rows import UnitRoute, _hooks


def test_a_call_that_meets_half_a_registration_goes_its_way():
    """torch adds a hook first, and notes that it takes keywords afterwards: in between it is called without."""
    begin, end = _hooks("", UnitRoute(), [])
    module = torch.nn.Linear(2, 2)
    module.register_forward_pre_hook(begin)
    module.register_forward_hook(end)
    x = torch.ones(1, 2)
    assert torch.equal(module(x), torch.nn.functional.linear(x, module.weight, module.bias))
