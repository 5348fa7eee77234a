"""Dispatch modes on several threads leave no mark on the process."""

import threading

import pytest
import torch
from torch.utils import _python_dispatch

from shim.routing.mode import _FLAGS, ThreadedDispatchMode


class Counting(ThreadedDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen += 1
        return func(*args, **(kwargs or {}))


def flags():
    return {name: getattr(_python_dispatch, name) for name in _FLAGS}


def overlap(mode):
    """Enter `mode` here, then on another thread; leave it here first."""
    entered, left = threading.Event(), threading.Event()

    def other():
        with mode():
            entered.set()
            left.wait(10)

    thread = threading.Thread(target=other)
    with mode():
        thread.start()
        entered.wait(10)
    inside = flags()
    left.set()
    thread.join()
    return inside


def test_threads_that_overlap_leave_the_process_as_it_was():
    before = flags()
    inside = overlap(Counting)
    assert flags() == before
    assert all(inside.values())


@pytest.mark.skipif(not _FLAGS, reason="this torch keeps nothing for the process")
def test_upstreams_own_mode_leaves_a_mark():
    class Upstreams(_python_dispatch.TorchDispatchMode):
        pass

    before = flags()
    try:
        for name in before:  # an earlier test may have left upstream's mark
            setattr(_python_dispatch, name, False)
        overlap(Upstreams)
        assert any(flags().values())
    finally:
        for name, value in before.items():
            setattr(_python_dispatch, name, value)


def test_a_mode_within_itself_and_after_a_failure():
    before = flags()
    mode = Counting()

    def fail():
        with mode, mode:
            torch.ones(1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert mode.seen
    assert flags() == before
