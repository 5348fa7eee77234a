"""Two processes beside this one, forked so that they have its model and its shim, that talk to each other by gloo."""

from __future__ import annotations

import datetime
import multiprocessing
import pickle
import tempfile
import traceback
from pathlib import Path
from typing import Any, Callable, List

from conformance.compare import Inapplicable, Mismatch

LIMIT = 20
"""Seconds for which one waits for the other."""


def in_two(function: Callable[[int], Any]) -> List[Any]:
    """Return what `function(rank)` returns in each of two processes, which are one group of torch.distributed.

    Raises:
        Inapplicable: there is no gloo, or no fork, here.
        Mismatch: it raised in one of them, or one waits for ever.
    """
    import torch

    if not torch.distributed.is_available() or "fork" not in multiprocessing.get_all_start_methods():
        raise Inapplicable("torch.distributed, or a fork, is not to be had here")
    context: Any = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        started = [context.Process(target=_run, args=(function, rank, folder)) for rank in range(2)]
        for process in started:
            process.start()
        for process in started:
            process.join(3 * LIMIT)
        late = [process for process in started if process.is_alive()]
        for process in late:
            process.kill()
            process.join()
        if late:
            raise Mismatch(f"{len(late)} of two ranks did not return within {3 * LIMIT} s: one waits for the other")
        died = [process.exitcode for process in started if process.exitcode]
        if died:
            raise Mismatch(f"{len(died)} of two ranks ended with {died}, but should end with 0")
        found = [pickle.loads((Path(folder) / str(rank)).read_bytes()) for rank in range(2)]
    for rank, (_, error) in enumerate(found):
        if error is not None:
            raise Mismatch(f"rank {rank} raised {error}")
    return [result for result, _ in found]


def _run(function: Callable[[int], Any], rank: int, folder: str) -> None:
    """Run one rank and write down what it returned or raised."""
    import torch

    torch.set_num_threads(1)  # a fork has none of the threads that the process before it had
    result, error = None, None
    try:
        torch.distributed.init_process_group(
            "gloo", f"file://{folder}/store", rank=rank, world_size=2, timeout=datetime.timedelta(seconds=LIMIT)
        )
        result = function(rank)
        torch.distributed.barrier()
    except Exception as raised:
        error = traceback.format_exception_only(type(raised), raised)[-1].strip()
    # The group is not destroyed: a fork unwinds nothing at its end, where gloo's threads now and then abort.
    (Path(folder) / str(rank)).write_bytes(pickle.dumps((result, error)))
