"""The route of a model whose weights are sharded over ranks with rows of their own: all trace, or none; none splits.

Each forward gathers every block's weights from all ranks. A rank that ran one forward more than the others would wait
for ever, or gather another block's weights. So the ranks tell each other whether all know their plans before any runs
a layer; where one does not, all trace, in exactly one forward; where one is refused, all are.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any, Callable, Optional

from shim.batch import MixedBatch
from shim.errors import RefusedError, Unroutable
from shim.ranks import Ranks
from shim.routing.inputs import Inputs, check_known
from shim.routing.layers import RowGroups
from shim.routing.one_pass import check_methods, check_shared_layers, decided_by_data
from shim.routing.owners import BY_ADAPTERS
from shim.routing.plan import Plan
from shim.routing.plans import forget, look_up, plan_for, signature_of
from shim.routing.replay import PlanChanged, Replay
from shim.routing.split import run_plain
from shim.routing.steady import Steady
from shim.routing.trace import Owners, check_routed, trace_to_the_end
from shim.selection import BASE, select


def run_together(function: Callable[..., Any], batch: MixedBatch, inputs: Inputs, owners: Owners, ranks: Ranks) -> Any:
    """Run this rank's rows by `function`, a forward, in as many forwards as every other rank runs.

    Raises:
        RefusedError: one pass cannot be proven exact on this rank or another; on all ranks.
    """
    groups = RowGroups(batch)
    plain = len(batch.groups) == 1

    def known() -> Optional[Plan]:
        if plain:
            return None
        check_known(inputs)
        check_methods(batch)
        check_routed(batch)
        found = look_up(batch.model, signature_of(batch, inputs, range(len(batch.names)), owners, "forward"))
        if isinstance(found, str):
            raise Unroutable(found)
        return _checked(found, batch, groups) if isinstance(found, Plan) else None

    def traced() -> Optional[Plan]:
        if plain:  # for the others' sake
            with suppress(Unroutable):
                trace_to_the_end(function, batch, inputs, range(len(batch.names)), owners)
            return None
        rows = range(len(batch.names))
        found = plan_for(function, batch, inputs, rows, owners, again=True, to_the_end=True)
        return _checked(found, batch, groups)

    plan = ranks.in_step(known)
    if any(ranks.everyone(plan is None and not plain)):
        plan = ranks.in_step(traced)
    return ranks.in_step(lambda: _run(function, batch, inputs, groups, plan))


def check_together(*, generates: bool, per_sample: bool) -> None:
    """Check that a call on a fully sharded model is one that runs as many forwards on every rank.

    Raises:
        RefusedError: it is a `generate`, or is split to have an output for each sample.
    """
    if generates or per_sample:
        what = "generate runs a forward for each token" if generates else "per_sample splits the batch by adapter"
        raise RefusedError(
            f"{what}, so that the ranks of a fully sharded model (fully_shard) would wait for each other's for ever. "
            "Call the model, or generate on a model that is not sharded"
        )


def _checked(plan: Plan, batch: MixedBatch, groups: RowGroups) -> Plan:
    if plan.by_data == BY_ADAPTERS:
        raise Unroutable(f"data decides the rows of {decided_by_data(plan)}")
    check_shared_layers(plan, batch, groups)
    return plan


def _run(
    function: Callable[..., Any], batch: MixedBatch, inputs: Inputs, groups: RowGroups, plan: Optional[Plan]
) -> Any:
    if plan is None:
        return run_plain(function, batch, inputs)
    replay = Replay(plan, batch, groups)
    route = Steady(replay, groups.selection(BASE), (PlanChanged, Unroutable))
    with select(replace(groups.selection(BASE), route=route)):
        output = inputs.call(function)
    try:
        route.check()
        replay.finish()
    except PlanChanged as changed:
        forget(batch.model)
        raise Unroutable(f"the forward takes another path than when it was traced: {changed}") from changed
    return output
