"""Whose the rows of packed inputs are, where a split was not told: what one forward of the base model makes of them."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Callable, Set

import torch

from shim.batch import MixedBatch
from shim.errors import RefusedError
from shim.modules import base_model_of
from shim.no_trace import remember
from shim.routing.inputs import PER_SAMPLE, SHARED, Inputs, check_known, main_input_names, parameter_names, root_name
from shim.routing.trace import Owners, trace_owners
from shim.selection import select

Split = Callable[[Owners], Any]


def split_packed(split: Split, forward: Callable[..., Any], batch: MixedBatch, inputs: Inputs, owners: Owners) -> Any:
    """Return `split(owners)`; where it refuses inputs that may be packed, with the owners that `forward` shows.

    These are assumed, as the caller's are: the split proves them before an output is believed.

    Args:
        forward: a forward of the model; it is run once on the base model, and changes nothing.
        inputs: of `forward`.

    Raises:
        RefusedError: the batch does not divide by sample.
    """
    doubted = _may_be_packed(batch, inputs, owners)
    if not doubted:
        return split(owners)
    restore = remember(batch.model, batch.names)
    try:
        return split(owners)
    except RefusedError as refused:
        restore()  # what the first attempt has drawn
        found = _owners_of(doubted, forward, batch, inputs, owners)
        if found:
            with suppress(RefusedError):  # the caller gave no owners: what stands in the way without any is to be told
                return split({**found, **owners})
        raise refused


def owners_of_prompt(batch: MixedBatch, inputs: Inputs, owners: Owners) -> Owners:
    """Return `owners`, and whose the rows are of what else a generate is given packed, as one forward of it shows."""
    prompt = of_prompt(batch, inputs)
    doubted = _may_be_packed(batch, prompt, owners)
    found = _owners_of(doubted, base_model_of(batch.model), batch, prompt, owners) if doubted else {}
    return {**found, **owners}


def of_prompt(batch: MixedBatch, inputs: Inputs) -> Inputs:
    """Return what a forward of the base model takes of the inputs of a generate."""
    base = base_model_of(batch.model)
    taken = parameter_names(base.forward)
    main = (*main_input_names(base), "input_ids")[0]
    named = {main if name == "inputs" else name: value for name, value in inputs.values.items()}
    return Inputs({name: value for name, value in named.items() if name in taken})


def _may_be_packed(batch: MixedBatch, inputs: Inputs, owners: Owners) -> Set[str]:
    """Return what images and sounds are made of; whole numbers beside it (sizes, kinds of tokens) go with all of it.

    What is as long as the batch is doubted only beside text, which says whose an image is: by itself it is what the
    names are given for, in its own order.
    """
    known = PER_SAMPLE | SHARED | owners.keys()
    tensors = inputs.tensors()
    beside_text = any(root_name(path) in PER_SAMPLE for path in tensors)
    return {
        path
        for path, tensor in tensors.items()
        if tensor.is_floating_point() and path not in known and root_name(path) not in known
        if beside_text or tensor.shape[:1] != (len(batch.names),)
    }


def _owners_of(
    doubted: Set[str], forward: Callable[..., Any], batch: MixedBatch, inputs: Inputs, owners: Owners
) -> Owners:
    try:
        check_known(inputs)  # the trace would change an object of the caller's
        with select(None):
            return trace_owners(forward, batch, inputs, range(len(batch.names)), owners, doubted)
    except (MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception:  # what the model or the trace says of it is no better than why the split was refused
        return {}
