import os
import signal
import time

import pytest

from conformance.sweep.isolation import CAN_FORK, isolated

needs_fork = pytest.mark.skipif(not CAN_FORK, reason="there is no fork here: the work runs inline")


def test_what_is_said_arrives_in_order():
    def work(say):
        for number in range(1000):
            say(f"line {number}, ü")

    lines, ended = isolated(work, 30)
    assert lines == [f"line {number}, ü" for number in range(1000)]
    assert ended is None


@needs_fork
@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "died of SIGKILL"),
        (lambda: os._exit(9), "exited with 9"),
        (lambda: 1 / 0, "exited with 70"),
    ],
)
def test_a_crash_keeps_what_was_said_before(end, reason, capfd):
    def work(say):
        say("before")
        end()
        say("after")

    assert isolated(work, 30) == (["before"], reason)
    assert ("ZeroDivisionError" in capfd.readouterr().err) == (reason == "exited with 70")


@needs_fork
def test_a_hang_ends_at_the_deadline():
    def work(say):
        say("before")
        time.sleep(60)

    started = time.monotonic()
    assert isolated(work, 0.5) == (["before"], "time-out after 0 s")
    assert time.monotonic() - started < 10


@needs_fork
def test_the_child_does_not_reach_its_parent():
    heard = []
    isolated(lambda say: heard.append(1), 30)
    assert heard == []


@needs_fork
def test_no_process_is_left():
    isolated(lambda say: time.sleep(60), 0.1)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
