"""The one-pass route: every adapted layer runs the rows of each adapter, in one forward of the model."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Callable

from shim import policy
from shim.batch import MixedBatch, is_row_wise, method_of
from shim.errors import Unroutable
from shim.no_trace import failure_leaves_no_trace
from shim.prompts import is_chosen_at_the_model
from shim.routing.graph_replay import NoGraph, run_by_graphs
from shim.routing.inputs import Inputs, check_known
from shim.routing.layers import RowGroups
from shim.routing.owners import BY_ADAPTERS
from shim.routing.plan import Plan
from shim.routing.plans import plan_for
from shim.routing.replay import PlanChanged, check_shared, run_live, run_planned
from shim.routing.trace import Owners
from shim.selection import BASE

# Tracing while running costs several forwards and grows little with the adapters, a split grows with them. Measured on
# a Switch of width 256, four layers a side, 8 samples, one CPU thread: for 2, 4 and 8 adapters live took 4.9 to 12
# forwards and a split 1.1 to 4.3. Where the two meet was not measured; this is set by their slopes.
MOST_TO_SPLIT = 16


class NeedsLive(Unroutable):
    """One pass is possible, but must be traced while it runs, since the adapters' own outputs decide some rows."""

    hangs_on_values = False


class NotByLayers(Unroutable):
    """An adapter is of a method that no layer can choose row by row."""

    hangs_on_values = False


def prefers_live(batch: MixedBatch) -> bool:
    """Whether a batch whose rows data decides is better run live than split."""
    return len(batch.groups) > MOST_TO_SPLIT or policy.chosen().fallback == policy.REFUSE


def run_one_pass(
    function: Callable[..., Any], batch: MixedBatch, inputs: Inputs, owners: Owners, live: bool = False
) -> Any:
    """Run the batch by `function`, a forward, in one pass.

    Args:
        live: whether to trace while running, where nothing else will do.

    Raises:
        NeedsLive: nothing else will do.
        Unroutable: some row's sample cannot be proven; nothing was changed.
    """
    check_known(inputs)
    check_methods(batch)
    rows = range(len(batch.names))
    groups = RowGroups(batch)
    for again in (False, True):
        plan = plan_for(function, batch, inputs, rows, owners, again=again)
        check_shared_layers(plan, batch, groups)
        if plan.by_data == BY_ADAPTERS and not live:
            raise NeedsLive(f"data decides the rows of {decided_by_data(plan)}")
        try:
            with failure_leaves_no_trace(batch.model, batch.names, inputs.caches()):
                if plan.by_data == BY_ADAPTERS:
                    return run_live(function, inputs, plan, groups, rows, owners)
                return _run_planned(function, inputs, plan, groups)
        except PlanChanged as changed:
            last = changed
    raise Unroutable(f"the forward takes another path under the adapters: {last}")


def _run_planned(function: Callable[..., Any], inputs: Inputs, plan: Plan, groups: RowGroups) -> Any:
    """Run the forward by `plan`, the compiled parts of the model by graphs where these serve.

    Raises:
        PlanChanged, Unroutable: see `Replay.run_layer`.
    """
    if groups.batch.is_compiled:
        with suppress(NoGraph):
            return run_by_graphs(function, inputs, plan, groups)
    return run_planned(function, inputs, plan, groups)


def decided_by_data(plan: Plan) -> str:
    """Return the name of the first layer whose rows the adapters' own outputs decide, or else the output."""
    return next((call.layer for call in plan.calls if call.by_data == BY_ADAPTERS), "the output")


def check_methods(batch: MixedBatch) -> None:
    """Check that the adapters of the batch are chosen in layers that treat each row by itself.

    Raises:
        NotByLayers: one is of a method that does otherwise.
    """
    for group in batch.groups:
        if group.adapter != BASE:
            config = batch.model.peft_config[group.adapter]
            if is_chosen_at_the_model(config):
                raise NotByLayers(
                    f"adapter {group.adapter!r} ({method_of(config)}) is chosen at the model, not in a layer"
                )
            if not is_row_wise(config):
                raise NotByLayers(f"the layers of adapter {group.adapter!r} do not treat each row by itself")


def check_shared_layers(plan: Plan, batch: MixedBatch, groups: RowGroups) -> None:
    """Check that no adapter of the batch has weights where rows are shared by samples.

    Raises:
        Unroutable: one has.
    """
    if plan.shared:
        layers = dict(batch.layers)
        for call in plan.shared:
            check_shared(call, layers[call.layer], groups)
