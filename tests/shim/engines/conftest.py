"""The shim in place, and the default dtype float64, in which sharded and unsharded can be told equal."""

import pytest
import torch

import shim


@pytest.fixture(autouse=True)
def installed():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    shim.install()
    yield
    shim.uninstall()
    torch.set_default_dtype(before)
