"""Planted defects, each caught by the check that owns it: a suite that sees nothing proves nothing.

One at a time: its owner must fail with it, and pass without it. `python -m conformance prove` does so with many seeds.
"""

import pytest

from conformance.proof.batch import Batch, tallied
from conformance.proof.fault import FAULTS, load
from conformance.settings import Settings

load("tests.faults")


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_each_planted_fault_is_caught_by_the_check_that_owns_it(name):
    settings = Settings(examples=2)
    clean, planted = (tallied(Batch(name, fault, 0, 1, settings)) for fault in (False, True))
    assert clean.right == 1, clean.wrong
    assert planted.right == 1, f"{name} went unseen: {planted.wrong}"
    print(f"{name}: caught by {planted.check} on {planted.model}: {planted.said[:160]}")
