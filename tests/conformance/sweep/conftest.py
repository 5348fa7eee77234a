"""The sweep's tests that judge models do so with the shim in place."""

import pytest

from conformance.shim_switch import shim_installed


@pytest.fixture
def installed():
    """Install the shim for the test; one that was there before stays."""
    with shim_installed(True):
        yield
