"""Work that may crash or hang, done in a child of this process: what it says arrives line by line."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from typing import Callable, Iterator, List, Optional, Tuple

Say = Callable[[str], None]
Work = Callable[[Say], None]

CAN_FORK = hasattr(os, "fork") and sys.platform != "win32"


def isolated(work: Work, deadline: float) -> Tuple[List[str], Optional[str]]:
    """Run `work` in a forked child; return the lines that it said and, where it did not end well, why.

    The reason is "time-out after … s", or "died of signal …" or "exited with …". Where there is no fork the work
    runs here, without a deadline, and a crash is ours.
    """
    if not CAN_FORK:
        said: List[str] = []
        work(said.append)
        return said, None
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _be_the_child(work, reader, writer)
    os.close(writer)
    try:
        lines, in_time = _lines_until(reader, time.monotonic() + deadline)
    finally:
        os.close(reader)
    if not in_time:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return lines, _reason(status, in_time, deadline)


def _be_the_child(work: Work, reader: int, writer: int) -> None:
    """Do the work and leave without the parent's clean-up: its buffers, threads and hooks are not ours."""
    code = 70
    try:
        os.close(reader)
        work(lambda line: _write(writer, line))
        code = 0
    except BaseException as error:
        _write(2, f"{type(error).__name__}: {error}")
    finally:
        os._exit(code)


def _write(descriptor: int, line: str) -> None:
    data = (line + "\n").encode("utf-8", "replace")
    while data:
        data = data[os.write(descriptor, data) :]


def _lines_until(reader: int, end: float) -> Tuple[List[str], bool]:
    """Return the lines that come before `end`, and whether the writer closed by then."""
    data, in_time = b"", False
    while time.monotonic() < end:
        ready, _, _ = select.select([reader], [], [], max(0.0, end - time.monotonic()))
        if not ready:
            break
        chunk = os.read(reader, 1 << 16)
        if not chunk:
            in_time = True
            break
        data += chunk
    return list(_whole_lines(data)), in_time


def _whole_lines(data: bytes) -> Iterator[str]:
    """Yield the lines that ended: a child may die amid one."""
    for line in data.split(b"\n")[:-1]:
        yield line.decode("utf-8", "replace")


def _reason(status: int, in_time: bool, deadline: float) -> Optional[str]:
    if not in_time:
        return f"time-out after {deadline:.0f} s"
    if os.WIFSIGNALED(status):
        return f"died of {signal.Signals(os.WTERMSIG(status)).name}"
    code = os.WEXITSTATUS(status)
    return None if code == 0 else f"exited with {code}"
