import sys

import pytest

from conformance.proof.fault import FAULTS, load

TOYS = "tests.conformance.proof.toy_faults"


@pytest.fixture
def toys():
    """The toy faults, and no others, while the test lasts."""
    before = dict(FAULTS)
    FAULTS.clear()
    sys.modules.pop(TOYS, None)
    yield load(TOYS)
    FAULTS.clear()
    FAULTS.update(before)
