"""The shim in place, and the default dtype float64."""

import pytest
import torch

from conformance.models.precision import default_dtype


@pytest.fixture(autouse=True)
def _shim(installed_shim):
    torch.manual_seed(0)
    with default_dtype(torch.float64):  # transformers 4.36 makes its masks in it
        yield
