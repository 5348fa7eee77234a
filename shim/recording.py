"""Graphs that would keep the names of the call that they were recorded from: no mixed call goes into one."""

from __future__ import annotations

from typing import Any

import torch

from shim.errors import RefusedError


def check_not_recorded() -> None:
    """Check that what runs now is not recorded, to be run again with other rows.

    A call that torch.compile meets is run outside of its graph, and is not recorded.

    Raises:
        RefusedError: torch.export, torch.jit.trace or the capture of a CUDA graph records it.
    """
    recorder = ""
    if _is_exporting():
        recorder = "torch.export"
    elif torch._C._get_tracing_state() is not None:
        recorder = "torch.jit.trace"
    elif torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
        recorder = "a CUDA graph"
    if recorder:
        raise RefusedError(
            f"a mixed batch is recorded by {recorder}, whose graph would give every later call the adapters of "
            "this one. Record a call without names, one graph for each adapter, or run mixed batches in Python"
        )


def _is_exporting() -> bool:
    """Whether torch.export runs Python as it is and records what it does."""
    compiler: Any = getattr(torch, "compiler", None)
    # Breakpoint: torch 2.7; before, it compiles while dynamo does not.
    if hasattr(compiler, "is_exporting"):
        return bool(compiler.is_exporting())
    if not hasattr(compiler, "is_dynamo_compiling"):
        return False
    return bool(compiler.is_compiling() and not compiler.is_dynamo_compiling())
