"""Checks run with float64 as torch's default, as `examine` runs them."""

import pytest
import torch

from conformance.models.precision import default_dtype


@pytest.fixture(autouse=True)
def in_float64():
    with default_dtype(torch.float64):
        yield
