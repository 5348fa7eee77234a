"""Graphs that would keep the names of the call that they were recorded from: no mixed call goes into one."""

from __future__ import annotations

import torch

from shim.errors import RefusedError
from shim.selection import is_compiling


def check_not_recorded() -> None:
    """Check that what runs now is not recorded, to be run again with other rows.

    A call that torch.compile meets is run outside of its graph, and is not recorded.

    Raises:
        RefusedError: torch.export, torch.jit.trace or the capture of a CUDA graph records it.
    """
    recorder = ""
    if is_compiling():
        recorder = "torch.export"
    elif torch.jit.is_tracing():  # type: ignore[no-untyped-call]
        recorder = "torch.jit.trace"
    elif torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
        recorder = "a CUDA graph"
    if recorder:
        raise RefusedError(
            f"a mixed batch is recorded by {recorder}, whose graph would give every later call the adapters of "
            "this one. Record a call without names, one graph for each adapter, or run mixed batches in Python"
        )
