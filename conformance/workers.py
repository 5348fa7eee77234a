"""What each worker of pytest-xdist is given: a GPU of its own, and the packages of its own interpreter."""

from __future__ import annotations

import functools
import json
import os
import platform
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Dict, Optional, Tuple

from conformance.report.environment import versions

if TYPE_CHECKING:
    import pytest

_GPU, _OTHER = "conformance_gpu", "conformance_other_interpreter"
_VISIBLE = "CUDA_VISIBLE_DEVICES"


@functools.lru_cache(maxsize=None)
def gpus() -> Tuple[str, ...]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if _VISIBLE in os.environ:
        named = [name.strip() for name in os.environ[_VISIBLE].split(",")]
        # CUDA takes those before the first that it does not know.
        return tuple(named[: next((at for at, name in enumerate(named) if name in ("", "-1")), len(named))])
    # In a process of its own: here CUDA would be awake before the workers are, and torch imported for nothing else.
    code = "import torch; print(torch.cuda.device_count())"
    counted = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return tuple(map(str, range(int(counted.stdout or 0)))) if counted.returncode == 0 else ()


def number_of_workers(device: str) -> Optional[int]:
    """Return how many workers `-n auto` means: on "cuda" one for each GPU; None where pytest-xdist is to say."""
    return len(gpus()) or None if device == "cuda" else None


def prepare(node: Any, device: str) -> None:
    """Give the worker of `node` its GPU, and leave it the packages of its own interpreter.

    On "cuda" worker i has GPU i, counted round; one on another machine has that machine's. pytest-xdist hands all local
    workers this process's `sys.path`, which for another interpreter is the packages of the wrong one.
    """
    spec = node.gateway.spec
    local = bool(spec.popen)
    number = "".join(letter for letter in str(node.gateway.id) if letter.isdigit())
    if local and device == "cuda" and gpus():
        node.workerinput[_GPU] = gpus()[int(number or 0) % len(gpus())]
    if spec.python and spec.python != sys.executable:
        node.workerinput[_OTHER] = True
        spec.popen = False  # so that it gets no path: nothing after this asks whether the worker is local


def begin(config: pytest.Config) -> None:
    """Take up, in a worker, what `prepare` gave it; before CUDA is used, or it is too late."""
    gpu = getattr(config, "workerinput", {}).get(_GPU)
    if gpu is not None:
        os.environ[_VISIBLE] = gpu


def other_environment(config: pytest.Config) -> str:
    """Return as JSON what a worker of another interpreter runs on; nothing for one of the controller's."""
    if not getattr(config, "workerinput", {}).get(_OTHER):
        return ""
    return _environment()


@functools.lru_cache(maxsize=None)
def _environment() -> str:
    facts: Dict[str, Any] = {"python": platform.python_version(), "packages": versions()}
    return json.dumps(facts, sort_keys=True)
