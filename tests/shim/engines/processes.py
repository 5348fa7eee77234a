"""Two processes that talk by gloo, with a limit: a hang fails, and does not block."""

import datetime
import faulthandler
import os
import pickle
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parents[3]
LIMIT = 240  # seconds, most of them imports on a busy machine
HUNG = 200  # after so many seconds a process says where each of its threads is, and ends


def in_two(function, folder, *args):
    """Return what `function(rank, *args)` returns in each of two processes, with the shim in place in both."""
    started = [
        subprocess.Popen(
            [sys.executable, "-m", __name__, function.__module__, function.__qualname__, str(rank), str(folder)],
            cwd=str(ROOT), env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        for process in started:
            process.stdin.write(pickle.dumps(args))
            process.stdin.close()
            process.stdin = None
        for rank, process in enumerate(started):
            said, _ = process.communicate(timeout=LIMIT)
            assert process.returncode == 0, f"rank {rank}: {said.decode()[-3000:]}"
    finally:
        for process in started:
            process.kill()
            process.communicate()
    return [pickle.loads((Path(folder) / f"{rank}.pickle").read_bytes()) for rank in range(2)]


def _main(module, name, rank, folder):
    import importlib

    import shim

    faulthandler.dump_traceback_later(HUNG, exit=True)
    args = pickle.loads(sys.stdin.buffer.read())
    torch.set_default_dtype(torch.float64)
    shim.install()
    torch.distributed.init_process_group(
        "gloo", f"file://{folder}/store", rank=int(rank), world_size=2, timeout=datetime.timedelta(seconds=60)
    )
    found = getattr(importlib.import_module(module), name)(int(rank), *args)
    (Path(folder) / f"{rank}.pickle").write_bytes(pickle.dumps(found))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    # All is said. A process that ends by itself unwinds the threads of gloo, and now and then aborts over it
    # ("terminate called without an active exception").
    os._exit(0)


if __name__ == "__main__":
    _main(*sys.argv[1:])
