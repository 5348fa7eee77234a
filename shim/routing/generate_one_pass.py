"""Generate a mixed batch in one pass: one ordinary `generate`, each model call inside it by its plan."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, Callable, Dict, Hashable, Optional, Set, Tuple

import torch

from shim.batch import MixedBatch
from shim.errors import RaisedInTrace, Unroutable
from shim.no_trace import failure_leaves_no_trace
from shim.routing.generate_rows import (
    STEPS,
    RowsUnknown,
    Unit,
    UnitKey,
    UnitRoute,
    Units,
    check_not_again,
    follow_rows,
    units_told,
)
from shim.routing.generation import why_row_by_row
from shim.routing.inputs import Inputs, check_known
from shim.routing.layers import RowGroups
from shim.routing.one_pass import check_methods, check_shared_layers
from shim.routing.owners import BY_ADAPTERS
from shim.routing.packed import owners_of_prompt
from shim.routing.plans import plan_for, signature_of, store_of
from shim.routing.processors import check_followed
from shim.routing.replay import PlanChanged, Replay
from shim.routing.trace import Owners
from shim.selection import BASE, select

# What may call models or move rows by itself, so that a trial run tells nothing of it.
_UNKNOWN = ("custom_generate", "constraints", "force_words_ids")
# What ends a generation or chooses tokens, and has no say in which rows there are; a trial might use it up.
_NO_SAY = (
    "stopping_criteria max_time max_length min_length min_new_tokens max_new_tokens prefix_allowed_tokens_fn "
    "logits_processor"
).split()


def run_one_pass_generate(function: Callable[..., Any], batch: MixedBatch, inputs: Inputs, owners: Owners) -> Any:
    """Generate every row under its own adapter by one call of `function`, a generate.

    Raises:
        Unroutable: some row's sample cannot be proven; nothing was changed.
    """
    check_known(inputs)
    check_methods(batch)
    for name in _UNKNOWN:
        if inputs.values.get(name) is not None:
            raise Unroutable(f"{name} is given, and what it does to the rows cannot be followed")
    reason = why_row_by_row(batch, inputs)
    if reason:
        raise Unroutable(reason)
    check_followed(inputs)
    units = _units(function, batch, inputs, owners)
    route = GenerateRoute(units, batch)
    try:
        with failure_leaves_no_trace(batch.model, batch.names, inputs.caches()), units_told(batch, route):
            with select(replace(batch.selection(BASE), route=route)):
                return inputs.call(function)
    except PlanChanged as changed:
        raise Unroutable(f"a model call inside generate takes another path under the adapters: {changed}") from changed


class GenerateRoute(UnitRoute):
    """Runs every layer call of every model call inside generate by that call's plan."""

    def __init__(self, units: Units, batch: MixedBatch) -> None:
        self._units, self._batch = units, batch
        self._groups = RowGroups(batch, keeps_weights=True)
        self._replay: Optional[Replay] = None
        self._begun: Set[UnitKey] = set()

    def run_layer(self, layer: Any, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run each row of `layer` under the adapter of its sample."""
        if self._replay is None:
            raise Unroutable("generate calls an adapted layer outside of the model and its encoders")
        return self._replay.run_layer(layer, forward, args, kwargs)

    def begin(self, unit: Unit) -> None:
        """Take the plan of this model call; trace it where there is none yet."""
        known = self._units.get(unit.key)
        if known is None:
            raise Unroutable(
                f"generate calls {unit.name or 'the model'} with {unit.count} rows, whose samples are unknown"
            )
        check_not_again(known.once and unit.key in self._begun, unit)
        self._begun.add(unit.key)
        others = {path: ids for path, ids in known.owners.items() if path in unit.inputs.tensors()}
        with select(None):
            plan = plan_for(unit.module, self._batch, unit.inputs, known.rows, others, kind=f"unit {unit.name}")
        if plan.by_data == BY_ADAPTERS:
            raise Unroutable("the adapters' own outputs decide the rows of a layer, at every token")
        check_shared_layers(plan, self._batch, self._groups)
        self._replay = Replay(plan, self._batch, self._groups)

    def end(self, unit: Unit, output: Any) -> None:
        """Check that the call went as planned."""
        if self._replay is not None:
            self._replay.finish()
            self._replay = None


def _units(function: Callable[..., Any], batch: MixedBatch, inputs: Inputs, owners: Owners) -> Units:
    """Return the rows of the model calls of this generate: known, or from a short trial run."""
    signature = _signature(batch, inputs, owners)
    store = store_of(batch.model)
    known = store.exact.get(signature)
    if isinstance(known, str):
        raise Unroutable(known)
    if known is None:
        try:
            known, lasting = _followed(function, batch, inputs, owners)
        except Unroutable as reason:
            reason.keep_by(partial(store.keep, signature, str(reason)))
            raise
        if lasting:
            store.keep(signature, known)
    units: Units = known
    return units


def _followed(function: Callable[..., Any], batch: MixedBatch, inputs: Inputs, owners: Owners) -> Tuple[Units, bool]:
    values = {name: value for name, value in inputs.values.items() if name not in _NO_SAY}
    short = Inputs({**values, "max_new_tokens": STEPS, "min_new_tokens": STEPS}, inputs.positional)
    try:
        with failure_leaves_no_trace(batch.model, batch.names, {}):
            try:
                return follow_rows(function, batch, short, owners)
            except RowsUnknown:
                found = owners_of_prompt(batch, inputs, owners)
                if found == owners:
                    raise
                units, _ = follow_rows(function, batch, short, found)
                return units, False  # the prompt's values told
    except (Unroutable, MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:
        # The model's own error is met again by the next route, in the open.
        raise RaisedInTrace(f"following generate's rows raised {type(error).__name__}: {error}") from error


def _signature(batch: MixedBatch, inputs: Inputs, owners: Owners) -> Hashable:
    """Return what the rows of the model calls hang on: the settings, not the lengths."""
    values: Dict[str, Any] = {name: value for name, value in inputs.values.items() if name not in _NO_SAY}
    signature = signature_of(batch, Inputs(values, inputs.positional), range(len(batch.names)), owners, "generate")
    return signature.family, repr(getattr(batch.model, "generation_config", None))
