"""The plain and split routes: each adapter's rows through that adapter's own ordinary forward.

Plain: one distinct name, so the batch is run as it is. Split: one sub-batch per adapter, outputs put back in
row order. Both are exact by construction wherever inputs and outputs divide by sample, which `rehearsal`
proves; where they do not, the batch is refused with the reason.
"""

from __future__ import annotations

import functools
from contextlib import nullcontext
from typing import Any, Callable, Dict, List, Tuple

from shim.batch import MixedBatch, by_row
from shim.errors import RefusedError
from shim.kept import keep, kept_by_all, note
from shim.routing.assemble import LayoutChanged, assemble, taken_apart
from shim.routing.inputs import Inputs, check_known, sample_rules, take
from shim.routing.other_threads import carried_to_threads
from shim.routing.rehearsal import layout_for
from shim.routing.trace import Owners
from shim.routing.tree import held_now, replace_state
from shim.selection import select

OUTPUT, STATE, KEPT = "output", "state", "kept"
_OTHER_STRUCTURE = (
    "the outputs have another structure under an adapter than under the base model, so whose their rows are is not "
    "known. Run one adapter a call"
)


def run_plain(function: Callable[..., Any], batch: MixedBatch, inputs: Inputs) -> Any:
    """Run a batch with one distinct name under that adapter."""
    with select(batch.selection(batch.names[0])), carried_to_threads():
        return inputs.call(function)


def run_split_forward(
    function: Callable[..., Any], batch: MixedBatch, inputs: Inputs, owners: Owners, proven_anew: bool = False
) -> Any:
    """Run each adapter's rows by `function`, a forward, and put the outputs back in row order.

    A cache among the inputs holds the whole batch's state afterwards, as after an ordinary forward, and is
    the one that the output returns.

    Args:
        proven_anew: whether this very call is to show that samples do not change each other's rows, under each of its
            adapters, since values decide whether they do.

    Raises:
        RefusedError: the batch does not divide by sample, or the outputs cannot stand together.
    """

    run = functools.partial(forward_and_caches, function, batch)
    check_known(inputs)
    whole, parts = _divided(run, batch, inputs, owners, "forward", assemble, proven_anew)
    keep(batch.model, whole[KEPT])
    return _with_callers_caches(whole, parts[0], inputs)


def run_per_sample(function: Callable[..., Any], batch: MixedBatch, inputs: Inputs, owners: Owners) -> List[Any]:
    """Run each adapter's rows by `function`, a forward; return each sample's output, as of a batch of one (H4).

    Raises:
        RefusedError: the batch does not divide by sample, or fills a cache.
    """
    check_known(inputs)
    if inputs.caches() or owners:
        raise RefusedError(
            f"per_sample is given with {', '.join(sorted([*inputs.caches(), *owners]))}, which belong to the whole "
            "batch and cannot be handed back by sample. Leave them out, or leave per_sample out"
        )
    if len(batch.groups) == 1:  # taken apart all the same
        batch = by_row(batch)
    if len(batch.names) == 1:
        return [run_plain(function, batch, inputs)]

    def run(part: Inputs, rehearsing: bool = False) -> Any:
        return forward_and_caches(function, batch, part, rehearsing)[OUTPUT]

    outputs: List[Any]
    outputs, _ = _divided(run, batch, inputs, owners, "per sample", taken_apart)
    return outputs


def _divided(
    run: Callable[..., Any],
    batch: MixedBatch,
    inputs: Inputs,
    owners: Owners,
    kind: str,
    put_together: Callable[..., Any],
    proven_anew: bool = False,
) -> Tuple[Any, List[Any]]:
    """Run each adapter's rows; return what `put_together` makes of the outputs by their layout, and the outputs.

    Raises:
        RefusedError: the batch does not divide by sample, or the outputs cannot stand together.
    """
    rehearsed = functools.partial(run, rehearsing=True)
    # A layout may not fit: the model was changed after it was made, or takes another path at these sizes.
    for again in (False, True):
        layout = layout_for(rehearsed, batch, inputs, owners, kind, again, proven_anew)
        parts = _run_groups(run, batch, inputs, owners)
        try:
            return put_together(parts, batch.groups, layout), parts
        except LayoutChanged:
            continue
    raise RefusedError(_OTHER_STRUCTURE)


def forward_and_caches(
    function: Callable[..., Any], batch: MixedBatch, part: Inputs, rehearsing: bool = False
) -> Dict[str, Any]:
    """Run `function`, a forward, on a part of `batch` and return all that it changes, where all is as before.

    That is its output, the caches it was given, and what it kept on modules.

    Args:
        rehearsing: whether it is not known yet which tensors of its own the model writes over.
    """
    before = kept_by_all(batch.model, batch.names)
    try:
        with before.watched() if rehearsing else nullcontext():
            output = held_now(part.call(function))
    finally:
        changed = before.changed()
        note(batch.model, changed)
        before.restore()
    return {OUTPUT: output, STATE: part.caches(), KEPT: changed}


def _run_groups(run: Callable[[Inputs], Any], batch: MixedBatch, inputs: Inputs, owners: Owners) -> List[Any]:
    rules = sample_rules(inputs, len(batch.names), owners)
    parts = []
    for group in batch.groups:
        with select(batch.selection(group.adapter)), carried_to_threads():
            parts.append(run(take(inputs, group.rows, rules)))
    return parts


def _with_callers_caches(whole: Dict[str, Any], part: Dict[str, Any], inputs: Inputs) -> Any:
    """Move the state into the caller's caches, and return the output with them where the forward did."""
    caches = inputs.caches()
    for name, cache in caches.items():
        replace_state(cache, whole[STATE][name])
    if not caches or not isinstance(whole[OUTPUT], (dict, tuple, list)):
        return whole[OUTPUT]
    used: Tuple[Tuple[Any, Any], ...] = tuple((part[STATE][name], cache) for name, cache in caches.items())
    return _replace_aliases(whole[OUTPUT], part[OUTPUT], used)


def _replace_aliases(whole: Any, part: Any, used: Tuple[Tuple[Any, Any], ...]) -> Any:
    keys = list(part) if isinstance(part, dict) else range(len(part))
    found = {key: cache for key in keys for state, cache in used if part[key] is state}
    if not found:
        return whole
    if isinstance(whole, dict):
        for key, cache in found.items():
            whole[key] = cache
        return whole
    return type(whole)(found.get(index, value) for index, value in enumerate(whole))
