"""Gradient checkpointing: what the backward pass runs again is run under the selection that its forward had.

`torch.utils.checkpoint` keeps a function and calls it once more in the backward pass, when the call with names has
ended, maybe on another thread. What it keeps is made to remember its place in the call.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any, Callable, List

from shim.patch import Replacement
from shim.selection import Selection, select, selected

# Breakpoint: torch 2.15 calls the inner part of the generator by itself; pytorch/pytorch#90105, torch 2.1: a generator,
# which runs the forward elsewhere.
_WITHOUT_REENTRY = (
    "_checkpoint_without_reentrant_generator_impl",
    "_checkpoint_without_reentrant_generator",
    "_checkpoint_without_reentrant",
)


def remembering(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function`, to be called once more after the running call has ended as it would be called now."""
    selection = selected()
    if selection is None:
        return function
    again = None if selection.route is None else selection.route.again()

    def run(*args: Any, **kwargs: Any) -> Any:
        if selected() is selection:  # the forward itself, which a reentrant checkpoint runs without gradients
            now = replace(selection, trains=False)
        else:
            now = selection if again is None else replace(selection, route=again())
        with select(now):
            return function(*args, **kwargs)

    return run


def replacements() -> List[Replacement]:
    """Let both forms of torch's checkpoint keep functions that remember; they look these up at each call."""
    from torch.utils import checkpoint

    found = [Replacement(checkpoint.CheckpointFunction, "forward", staticmethod(_reentrant(checkpoint)))]
    there = [name for name in _WITHOUT_REENTRY if hasattr(checkpoint, name)][:1]  # lest a function remember twice
    return found + [Replacement(checkpoint, name, _first_remembering(vars(checkpoint)[name])) for name in there]


@functools.lru_cache(maxsize=None)
def remembers() -> bool:
    """Whether torch's checkpoint without reentry calls what remembers: its inside changes between versions."""
    import torch
    from torch.utils.checkpoint import checkpoint

    seen = []

    def function(x: Any) -> Any:
        seen.append(selected())
        return x.sin()

    selection = Selection(None, "", {})
    x = torch.ones(1, requires_grad=True)
    with torch.enable_grad():
        with select(selection):
            y = checkpoint(function, x, use_reentrant=False)
        with select(None):
            y.backward()
    return seen == [selection, selection]


def _reentrant(checkpoint: Any) -> Callable[..., Any]:
    original = checkpoint.CheckpointFunction.forward

    @functools.wraps(original)
    def forward(ctx: Any, run_function: Callable[..., Any], preserve_rng_state: bool, *args: Any) -> Any:
        selection = selected()
        if selection is not None and selection.model.training and not selection.trains:
            return run_function(*args)  # a trace, whose inputs need no gradients: upstream would warn of that
        return original(ctx, remembering(run_function), preserve_rng_state, *args)

    return forward


def _first_remembering(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return `original`, whose first argument is a function, with one that remembers in its place."""

    @functools.wraps(original)
    def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return original(remembering(function), *args, **kwargs)

    return call
