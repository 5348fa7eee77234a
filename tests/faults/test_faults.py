"""Planted defects, each caught by the check that owns it: a suite that sees nothing proves nothing.

One at a time: its owner must fail with it, and pass without it. `python -m conformance prove` does so with many seeds.
"""

import functools

import pytest

from conformance.proof.batch import Batch, tallied
from conformance.proof.fault import FAULTS, load
from conformance.settings import Settings

load("tests.faults")
SETTINGS = Settings(examples=2)


@functools.lru_cache(maxsize=None)  # of one place, whatever is planted there: once in a process is enough
def without(place):
    name = next(name for name in sorted(FAULTS) if FAULTS[name].place == place)
    return tallied(Batch(name, False, 0, 1, SETTINGS))


@pytest.mark.parametrize("name", sorted(FAULTS, key=lambda name: (FAULTS[name].place, name)))
def test_each_planted_fault_is_caught_by_the_check_that_owns_it(name):
    clean, planted = without(FAULTS[name].place), tallied(Batch(name, True, 0, 1, SETTINGS))
    assert clean.right == 1, clean.wrong
    assert planted.right == 1, f"{name} went unseen: {planted.wrong}"
    print(f"{name}: caught by {planted.check} on {planted.model}: {planted.said[:160]}")
