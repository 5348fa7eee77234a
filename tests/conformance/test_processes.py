"""Two ranks: what they return, and how one that raises, dies or waits is told."""

import os
import time

import pytest

from conformance import processes
from conformance.compare import Inapplicable, Mismatch

torch = pytest.importorskip("torch")


def in_two(function):
    try:
        return processes.in_two(function)
    except Inapplicable as reason:
        pytest.skip(str(reason))


def summed(rank):
    given = torch.tensor([float(rank + 1)])
    torch.distributed.all_reduce(given)
    return float(given)


def second_raises(rank):
    if rank:
        raise KeyError("missing")


def second_dies(rank):
    if rank:
        os._exit(3)


def second_sleeps(rank):
    if rank:
        time.sleep(600)


def test_ranks_talk_to_each_other():
    assert in_two(summed) == [3.0, 3.0]


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (second_raises, "rank [01] raised "),
        (second_dies, r"1 of two ranks ended with \[3\]"),
        (second_sleeps, "1 of two ranks did not return"),
    ],
)
def test_a_rank_that_does_not_end_well_is_a_mismatch(function, told, monkeypatch):
    monkeypatch.setattr(processes, "LIMIT", 2)
    with pytest.raises(Mismatch, match=told):
        in_two(function)
