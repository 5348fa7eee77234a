"""Prove that a batch divides by sample, by running the base model on all of it, each group and each sample.

The rehearsal answers three questions that no shape can: whether every input that was taken to hold one entry
per sample does, whether the model keeps its samples apart, and where the samples lie in each output. It runs
once for each structure of inputs (names, ranks and types of the tensors, all other arguments by value), under
`no_grad`, with the generators put back; in training mode without chance, which would tell a batch from
its parts. Where an input's meaning hangs on data (images packed beside text), it runs at every call; where samples
meet in the forward and values decide what comes of it, at every call under every adapter of the batch.
"""

from __future__ import annotations

import functools
import threading
import weakref
from typing import Any, Callable, Dict, Hashable, List, Mapping, Optional, Sequence, Tuple

import torch

from shim.batch import Group, MixedBatch, by_row, method_of
from shim.errors import RefusedError
from shim.no_trace import nothing_changed
from shim.quantised import check_quantised
from shim.routing.chance import without_chance
from shim.routing.inputs import PER_SAMPLE, SHARED, Inputs, root_name, sample_rules, take, with_caches_cloned
from shim.routing.layout import Layout, find_layout
from shim.routing.other_threads import carried_to_threads
from shim.routing.rows import RowRule
from shim.routing.trace import Owners
from shim.selection import BASE, select

Run = Callable[[Inputs], Any]

_MOST = 256
_LOCK = threading.Lock()
_LAYOUTS: weakref.WeakKeyDictionary[Any, Dict[Hashable, Layout]] = weakref.WeakKeyDictionary()
"""What rehearsals proved: that the inputs divide as `sample_rules` says, and the layout of the outputs."""


def layout_for(
    run: Run,
    batch: MixedBatch,
    inputs: Inputs,
    owners: Owners,
    kind: str,
    again: bool = False,
    proven_anew: bool = False,
) -> Layout:
    """Return the layout of this call's outputs, rehearsing where none is known, or `again` where one does not fit.

    Args:
        run: runs the model on inputs under the adapter that is selected and returns all that it changes.
        owners: whose each index is of inputs that are not one entry per sample.
        kind: what `run` calls, `forward` or `generate`: they have layouts of their own.
        proven_anew: whether values decide if samples meet: nothing known will do then, nor the base model alone.

    Raises:
        RefusedError: the batch does not divide by sample; nothing was changed.
    """
    if proven_anew:
        return _rehearse(run, batch, inputs, owners, {own.adapter: _apart(batch.groups, own) for own in batch.groups})
    key = _key(kind, batch, inputs, owners)
    if key is not None and not again:
        known = _LAYOUTS.get(batch.model, {}).get(key)
        if known is not None:
            return known
    samples = by_row(batch).groups
    layout = _rehearse(run, batch, inputs, owners, dict.fromkeys([BASE, *_others_to_rehearse(batch).values()], samples))
    if key is not None:
        with _LOCK:
            # A new dict each time, so that readers need no lock; the oldest go, lest changing arguments pile up.
            latest = list(_LAYOUTS.get(batch.model, {}).items())[1 - _MOST :]
            _LAYOUTS[batch.model] = dict([*latest, (key, layout)])
    return layout


def _rehearse(
    run: Run, batch: MixedBatch, inputs: Inputs, owners: Owners, divisions: Mapping[str, Tuple[Group, ...]]
) -> Layout:
    """Rehearse under each adapter of `divisions`: the batch by the names' groups, and as it says.

    The rows of one adapter, run together, would not show that they meet, nor, where they lie as in a mirror, that the
    model puts them in another order.
    """
    rules = sample_rules(inputs, len(batch.names), owners)
    layouts = []
    steady = functools.partial(without_chance, batch.is_training)
    for adapter, division in divisions.items():
        unchanged = nothing_changed(batch.model, [adapter])
        with torch.no_grad(), unchanged, select(batch.selection(adapter)), carried_to_threads(), steady():
            whole = run(with_caches_cloned(inputs))
            rows = dict.fromkeys(group.rows for group in (*batch.groups, *division))
            parts = {some: _run_part(run, inputs, rules, some) for some in rows}
        check_quantised(batch.model)
        ways = dict.fromkeys((batch.groups, division))  # one, where the names are distinct
        layouts += [find_layout(whole, [parts[group.rows] for group in way], way) for way in ways]
    return layouts[-1]  # of an adapter where there is one: virtual tokens may stand in its outputs


def _apart(groups: Sequence[Group], own: Group) -> Tuple[Group, ...]:
    """Return `groups` with each row of `own` by itself: what runs under an adapter is asked of its rows alone."""
    others = (group for group in groups if group is not own)
    return (*others, *(Group(own.adapter, (row,)) for row in own.rows))


def _others_to_rehearse(batch: MixedBatch) -> Dict[str, str]:
    """Return one adapter of the batch for each method whose layers may mix samples, LoRA's excepted.

    LoRA works row by row. Others need not: LILY averages its routing over the batch.
    """
    methods: Dict[str, str] = {}
    for group in batch.groups:
        if group.adapter != BASE:
            methods.setdefault(method_of(batch.model.peft_config[group.adapter]), group.adapter)
    return {method: adapter for method, adapter in methods.items() if method != "LORA"}


def _run_part(run: Run, inputs: Inputs, rules: Mapping[str, RowRule], rows: Sequence[int]) -> Any:
    try:
        return run(take(inputs, rows, rules))
    except (MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:
        raise RefusedError(_does_not_divide(inputs, rules, rows, error)) from error


def _does_not_divide(inputs: Inputs, rules: Mapping[str, RowRule], rows: Sequence[int], error: Exception) -> str:
    others = {path: tuple(tensor.shape) for path, tensor in inputs.tensors().items() if path not in rules}
    return (
        f"the inputs do not divide by sample: the base model runs on all of them, but raises "
        f"{type(error).__name__} ({error}) on samples {list(rows)} alone. Not one entry per sample along dim 0: "
        f"{others or 'none'}. Pass every input with samples along dim 0, say whose their rows are by "
        "owners={…}, or run one adapter a call"
    )


def _key(kind: str, batch: MixedBatch, inputs: Inputs, owners: Owners) -> Optional[Hashable]:
    """Return what a layout depends on, or None where it depends on the data."""
    tensors, count = inputs.tensors(), len(batch.names)
    undocumented = [t for p, t in tensors.items() if root_name(p) not in PER_SAMPLE | SHARED]
    with_text = any(name in inputs.values for name in ("input_ids", "inputs", "inputs_embeds"))
    if undocumented and with_text:
        return None  # images or sound beside text: which sample each belongs to may be in the data
    if len(undocumented) > 1 and not all(_rows_differ(tensor) for tensor in undocumented):
        return None  # rows that are alike cannot tell a tensor per sample from one for the whole batch
    parts: List[Hashable] = [kind, inputs.positional, batch.in_evaluation, batch.changes]
    parts += sorted(_others_to_rehearse(batch))
    parts += [(path, owners[path]) for path in sorted(owners)]
    for path, leaf in inputs.leaves().items():
        if path in tensors:
            parts.append((path, leaf.dim(), leaf.dtype, leaf.dim() > 0 and leaf.shape[0] == count))
        else:
            parts.append((path, type(leaf), repr(leaf)))
    return tuple(parts)


def _rows_differ(tensor: Any) -> bool:
    if tensor.dim() == 0:
        return True
    rows = tensor.detach().reshape(tensor.shape[0], -1)
    return bool(torch.unique(rows, dim=0).shape[0] == rows.shape[0])
