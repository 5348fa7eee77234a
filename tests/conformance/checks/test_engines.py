"""Precision: the error of a run is judged by outputs of many numbers only."""

import pytest
import torch

from conformance.checks.engines import FEWEST_NUMBERS
from conformance.checks.engines import _of_many_numbers as of_many_numbers
from conformance.compare import Inapplicable


def rows(**sizes):
    return {("ann", row): {path: torch.zeros(size) for path, size in sizes.items()} for row in range(2)}


def test_outputs_of_few_numbers_are_left_out():
    found = of_many_numbers(rows(states=FEWEST_NUMBERS // 2, logits=FEWEST_NUMBERS // 2 - 1))
    assert [list(row) for row in found.values()] == [["states"], ["states"]]


def test_where_all_are_of_few_nothing_can_be_told():
    with pytest.raises(Inapplicable, match=r"\{'logits': 4\} numbers, fewer than 32, chance decides"):
        of_many_numbers(rows(logits=2))
