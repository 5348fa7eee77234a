"""Run a mixed batch in one pass: the layers' rows by a plan, or traced as they come where data decides them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Callable, Dict, List, Optional, Sequence

import torch

from shim.batch import MixedBatch
from shim.errors import Unroutable
from shim.routing.inputs import Inputs, cloned
from shim.routing.layers import Kind, RowGroups, run_rows
from shim.routing.lifting import lifted
from shim.routing.outputs import check_outputs
from shim.routing.owners import CONSTANT, MIXED
from shim.routing.plan import Plan, PlannedCall, fits
from shim.routing.recorder import Recorder
from shim.routing.rows import rule_of
from shim.routing.running_modules import modules_told
from shim.routing.trace import Owners, seed, settle
from shim.routing.tracer import Tracer
from shim.selection import BASE, Route, select


class PlanChanged(Exception):
    """The forward did not go as planned: the model was changed, or its control flow hangs on data."""


class Replay(Route):
    """Runs the k-th layer call of a forward by the k-th entry of its plan."""

    def __init__(self, plan: Plan, batch: MixedBatch, groups: RowGroups, start: int = 0) -> None:
        self._plan, self._batch, self._groups = plan, batch, groups
        self._names = groups.names
        self._next = start

    def again(self) -> Callable[[], Replay]:
        """Return what makes a route for the layer calls from here on."""
        start = self._next
        return lambda: Replay(self._plan, self._batch, self._groups, start)

    def run_layer(self, layer: Any, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run each row of `layer` under the adapter of its sample.

        Raises:
            PlanChanged: another layer, or another shape, than planned.
            Unroutable: a row is needed by several samples whose adapters differ here.
        """
        call = self.next_call(layer, args)
        if call.shared:
            check_shared(call, layer, self._groups)
            with select(self._groups.selection(BASE)):
                return forward(layer, *args, **kwargs)
        return run_rows(call.kind, layer, forward, lifted(call, args), kwargs, call.rules, self._groups)

    def next_call(self, layer: Any, args: Any) -> PlannedCall:
        """Return what is planned for the layer call at hand, and go on to the next.

        Raises:
            PlanChanged: another layer, or another shape, was planned.
        """
        calls, index = self._plan.calls, self._next
        name = self._names[id(layer)]
        shape = args[0].shape if args and isinstance(args[0], torch.Tensor) else ()
        if index >= len(calls) or calls[index].layer != name or not fits(calls[index], shape):
            expected = f"{calls[index].layer} on {calls[index].shape}" if index < len(calls) else "the end"
            raise PlanChanged(f"layer call {index} is {name} on {tuple(shape)}, but should be {expected}")
        self._next = index + 1
        return calls[index]

    def finish(self) -> None:
        """Check that every planned call was made; raise `PlanChanged` where not."""
        if self._next != len(self._plan.calls):
            missing = self._plan.calls[self._next].layer
            raise PlanChanged(
                f"{self._next} layer calls were made, but should be {len(self._plan.calls)}: no {missing}"
            )


class Live(Route):
    """Traces and runs in one: each layer call's rows are those that the data gave it in this very pass."""

    def __init__(self, plan: Plan, tracer: Tracer, groups: RowGroups) -> None:
        self._tracer, self._groups = tracer, groups
        self._names = groups.names
        self._recorder = Recorder(tracer, groups.batch, {call.layer: call.lifted for call in plan.calls if call.lifted})
        self._known: Dict[Any, PlannedCall] = {}
        for call in plan.calls:
            self._known.setdefault((call.layer, call.shape), call)
        self._done: List[PlannedCall] = []

    def again(self) -> Callable[[], Replay]:
        """Return what makes a route for the layer calls from here on, their rows being those that they have now."""
        start = len(self._done)
        return lambda: Replay(Plan(tuple(self._done), ()), self._groups.batch, self._groups, start)

    def asked(self, layer: Any) -> None:
        """Note that the layer's adapter decides something that is not its own forward."""
        self._recorder.asked(layer)

    def run_layer(self, layer: Any, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run each row of `layer` under the adapter of the sample that it belongs to now.

        Raises:
            Unroutable: a row belongs to several samples, or to none that can be told now.
        """
        call = self._recorder.planned(layer, args)
        args = lifted(call, args)
        known = self._known.get((call.layer, call.shape))
        with self._tracer.paused():
            if call.kind is not Kind.OUTPUT:
                rows, by_data = self._recorder.rows_of_input(layer, call, args, kwargs)
                ids = [rows]
        if call.kind is Kind.OUTPUT:
            with select(self._groups.selection(BASE)):
                base = forward(layer, *args, **kwargs)
            with self._tracer.paused():
                ids, by_data = self._recorder.rows_of_output(layer, call, args, base)
        with self._tracer.paused():
            owners = [self._filled(call, known, index, one) for index, one in enumerate(ids)]
            rules = [rule_of(one) for one in owners]
            self._done.append(replace(call, rules=tuple(rules)))
            output = run_rows(call.kind, layer, forward, args, kwargs, rules, self._groups)
            self._recorder.write(call, owners, by_data, output)
        return output

    def _filled(self, call: PlannedCall, known: Optional[PlannedCall], index: int, ids: torch.Tensor) -> torch.Tensor:
        """Return the owners of the rows; those of rows that no sample has reached are known from the trace."""
        if bool((ids == MIXED).any()):
            raise Unroutable(f"rows of {call.layer}'s input {call.shape} belong to several samples")
        ids = torch.where(ids > self._tracer.lattice.samples, CONSTANT, ids)
        if not bool((ids == CONSTANT).any()):
            return ids
        if known is None or known.shared or index >= len(known.rules) or known.by_data:
            raise Unroutable(f"rows of {call.layer}'s input {call.shape} are constant, and no sample claims them")
        rule = known.rules[index]
        if rule is None:
            return ids
        line = torch.tensor(rule.owners, dtype=torch.int32, device=ids.device) + 1
        if rule.dim is None:
            return torch.where(ids == 0, line.view(ids.shape), ids)
        shape = [len(line) if dim == rule.dim else 1 for dim in range(ids.dim())]
        return torch.where(ids == 0, line.view(shape), ids)


def run_planned(function: Callable[..., Any], inputs: Inputs, plan: Plan, groups: RowGroups) -> Any:
    """Run the forward with every layer call by `plan`.

    Raises:
        PlanChanged, Unroutable: see `Replay.run_layer`.
    """
    route = Replay(plan, groups.batch, groups)
    with select(replace(groups.selection(BASE), route=route)):
        output = inputs.call(function)
    route.finish()
    return output


def run_live(
    function: Callable[..., Any],
    inputs: Inputs,
    plan: Plan,
    groups: RowGroups,
    rows: Sequence[int],
    owners: Owners,
) -> Any:
    """Run the forward with every layer call's rows traced in the same pass.

    Raises:
        Unroutable: a row, or an output, cannot be proven.
    """
    tracer = Tracer(max(rows) + 1)
    route = Live(plan, tracer, groups)
    caches = inputs.caches()
    own = cloned(inputs, lambda name: name not in caches)
    for name in caches:  # the caller's own, which this pass fills
        own = Inputs({**own.values, name: inputs.values[name]}, own.positional)
    with select(replace(groups.selection(BASE), route=route)):
        seeded = seed(tracer, own, rows, owners)
        with modules_told(tracer, groups.batch), tracer:
            output = own.call(function)
        state = {"output": output, "state": caches}
        check_outputs(tracer, settle(tracer, state, rows), state, rows, groups.batch, seeded)
    return output


def check_shared(call: PlannedCall, layer: Any, groups: RowGroups) -> None:
    """Check that no adapter of the call has weights in a layer whose rows are shared by samples.

    Raises:
        Unroutable: one has.
    """
    needed: List[str] = groups.needs(layer)
    if needed:
        raise Unroutable(f"{call.layer} has weights for {', '.join(map(repr, needed))}, but {call.shared}")
