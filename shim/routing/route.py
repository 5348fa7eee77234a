"""Which way a mixed call goes: in one pass, or split by adapter, or refused."""

from __future__ import annotations

import functools
from typing import Any, Callable

import torch

from shim import policy
from shim.batch import MixedBatch
from shim.errors import RefusedError, Unroutable
from shim.modules import base_model_of
from shim.routing.generate_one_pass import run_one_pass_generate
from shim.routing.generation import run_split_generate
from shim.routing.inputs import Inputs
from shim.routing.one_pass import NeedsLive, prefers_live, run_one_pass
from shim.routing.packed import of_prompt, split_packed
from shim.routing.split import run_plain, run_split_forward
from shim.routing.trace import Owners


def run_forward(function: Callable[..., Any], batch: MixedBatch, inputs: Inputs, owners: Owners) -> Any:
    """Run the batch by `function`, a forward.

    Raises:
        RefusedError: neither one pass nor the split by adapter can be proven exact.
    """
    try:
        return run_one_pass(function, batch, inputs, owners, prefers_live(batch))
    except NeedsLive:
        try:
            return run_split_forward(function, batch, inputs, owners)
        except RefusedError as refused:
            try:
                return run_one_pass(function, batch, inputs, owners, live=True)
            except Unroutable as reason:
                raise RefusedError(f"{refused} [in one pass: {reason}]") from reason
    except Unroutable as reason:
        split = functools.partial(run_split_forward, function, batch, inputs, proven_anew=reason.hangs_on_values)
        return _fall_back(functools.partial(split_packed, split, function, batch, inputs), owners, reason)


def run_one_adapter(function: Callable[..., Any], batch: MixedBatch, inputs: Inputs, owners: Owners) -> Any:
    """Run a batch with one distinct name by `function`, a forward: by the graphs of every list, where they may."""
    if batch.is_compiled and not torch.is_grad_enabled():
        try:
            return run_one_pass(function, batch, inputs, owners)
        except RefusedError:
            pass
        except Unroutable as reason:
            found = run_plain(function, batch, inputs)
            reason.served_otherwise()
            return found
    return run_plain(function, batch, inputs)


def run_generate(function: Callable[..., Any], batch: MixedBatch, inputs: Inputs, owners: Owners) -> Any:
    """Generate the batch by `function`.

    Raises:
        RefusedError: neither one pass nor the split by adapter can be proven exact.
    """
    if inputs.values.get("streamer") is not None:
        raise RefusedError(
            "a streamer takes one sample at a time, but a mixed batch has several. "
            "Leave the streamer out, or stream one row a call"
        )
    try:
        return run_one_pass_generate(function, batch, inputs, owners)
    except Unroutable as reason:
        split = functools.partial(run_split_generate, function, batch, inputs)
        forward, prompt = base_model_of(batch.model), of_prompt(batch, inputs)
        return _fall_back(functools.partial(split_packed, split, forward, batch, prompt), owners, reason)


def _fall_back(split: Callable[[Owners], Any], owners: Owners, reason: Unroutable) -> Any:
    if policy.chosen().fallback == policy.REFUSE:
        raise RefusedError(
            f"one pass cannot be proven exact: {reason}. Run one adapter a call, or let such batches be split with "
            'shim.install(fallback="split")'
        ) from reason
    try:
        found = split(owners)
    except RefusedError as refused:
        raise RefusedError(f"{refused} [in one pass: {reason}]") from reason
    reason.served_otherwise()
    return found
