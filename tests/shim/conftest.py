import pytest

import shim


@pytest.fixture
def installed_shim():
    """The shim in place for one test."""
    statuses = shim.install()
    yield statuses
    shim.uninstall()
