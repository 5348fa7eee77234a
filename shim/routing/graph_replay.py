"""Replay a plan through the compiled parts of a model, by one graph for every list of names.

A graph may run its operators in another order than the model's code, join those that are alike, and leave out those
whose output nobody reads. So layer calls are known by their layer alone, where all calls of a layer are planned alike,
and counted: whatever a graph does, and whichever graph it was, rows are their own or the call is run as it is written.
"""

from __future__ import annotations

import sys
import threading
import warnings
import weakref
from dataclasses import replace
from typing import Any, Callable, Dict, List, Optional, Tuple, Type

import torch

from shim.batch import MixedBatch
from shim.errors import Unroutable
from shim.graphs import Graphs, MixedCall
from shim.kernels.opaque import prepare
from shim.no_trace import failure_leaves_no_trace
from shim.routing.inputs import Inputs
from shim.routing.layers import Kind, RowGroups
from shim.routing.plan import Plan, PlannedCall, fits
from shim.routing.replay import PlanChanged, Replay
from shim.selection import BASE, select

_LOCK = threading.Lock()
_FAILED: weakref.WeakKeyDictionary[Any, List[Plan]] = weakref.WeakKeyDictionary()
_WARNED: weakref.WeakSet[Any] = weakref.WeakSet()


class NoGraph(Exception):
    """The compiled parts of a model cannot serve a call, for the reason given; it runs as it is written."""


class UnorderedReplay(Replay):
    """Runs each layer call by its layer's plan, in whatever order they come."""

    def __init__(self, plan: Plan, batch: MixedBatch, groups: RowGroups) -> None:
        super().__init__(plan, batch, groups)
        self._left: Dict[str, int] = {}
        self._calls: Dict[str, PlannedCall] = {}
        for call in plan.calls:
            self._left[call.layer] = self._left.get(call.layer, 0) + 1
            self._calls[call.layer] = call

    def next_call(self, layer: Any, args: Any) -> PlannedCall:
        """Return what is planned for `layer`.

        Raises:
            PlanChanged: no more calls of it are, or one on another shape.
        """
        name = self._names[id(layer)]
        shape = args[0].shape if args and isinstance(args[0], torch.Tensor) else ()
        if not self._left.get(name) or not fits(self._calls[name], shape):
            raise PlanChanged(f"a graph runs {name} on {tuple(shape)}, which is not planned")
        self._left[name] -= 1
        return self._calls[name]

    def finish(self) -> None:
        """Check that every planned call was made; raise `PlanChanged` where not."""
        missing = [name for name, count in self._left.items() if count]
        if missing:
            raise PlanChanged(f"a graph left out {missing[0]}")


def run_by_graphs(function: Callable[..., Any], inputs: Inputs, plan: Plan, groups: RowGroups) -> Any:
    """Run the forward by `plan` through graphs.

    Raises:
        NoGraph: they cannot serve it; nothing was changed.
    """
    model = groups.batch.model
    reason = _unfit_now(groups.batch)
    if reason is None and any(failed is plan for failed in _FAILED.get(model, ())):
        reason = "graphs did not serve an earlier call like this"
    if reason is None:
        try:
            _check(plan)
            with failure_leaves_no_trace(model, groups.batch.names, inputs.caches()):
                return _run(function, inputs, plan, groups)
        except _errors() as error:
            reason = str(error)
            with _LOCK:
                _FAILED.setdefault(model, []).append(plan)
    _tell(model, reason)
    raise NoGraph(reason)


def _run(function: Callable[..., Any], inputs: Inputs, plan: Plan, groups: RowGroups) -> Any:
    prepare(layer for _, layer in groups.batch.layers)
    route = UnorderedReplay(plan, groups.batch, groups)
    with select(replace(groups.selection(BASE), route=route, graphs=Graphs.OPERATORS)), MixedCall():
        output = inputs.call(function)
    route.finish()
    return output


def _unfit_now(batch: MixedBatch) -> Optional[str]:
    """Return why graphs can serve no call at all in the present mode; None where they can."""
    if torch.is_grad_enabled():
        return "gradients are enabled; call it under torch.no_grad() or torch.inference_mode()"
    if batch.is_training:
        return "the model is in training mode, whose chance graphs draw otherwise; call model.eval()"
    return "autocast is enabled, which graphs run without" if torch._C._is_any_autocast_enabled() else None


def _check(plan: Plan) -> None:
    """Check that graphs can serve calls by `plan`.

    Raises:
        NoGraph: they cannot.
    """
    calls: Dict[str, Tuple[Any, ...]] = {}
    for call in plan.calls:
        if call.kind is Kind.ATTENTION:
            raise NoGraph(f"{call.layer} takes and returns what is no tensor")
        if call.lifted:
            raise NoGraph(f"{call.layer} has one row for all samples, which is expanded for their adapters")
        about = (call.kind, call.shape, call.rules, call.shared)
        if calls.setdefault(call.layer, about) != about:
            raise NoGraph(f"{call.layer} is called several times in a forward, with other rows")


def _errors() -> Tuple[Type[Exception], ...]:
    """Return what is raised where graphs do not serve a call: found when one runs, or when one is made."""
    return (Unroutable, PlanChanged, NoGraph, sys.modules["torch._dynamo"].exc.TorchDynamoException)


def _tell(model: Any, reason: str) -> None:
    """Say once of a model that its mixed batches run uncompiled."""
    if model not in _WARNED:
        _WARNED.add(model)
        brief = " ".join(reason.split())[:300]
        warnings.warn(
            f"a mixed batch runs uncompiled: {brief}. Its rows are right; other calls of this model may run so without "
            "another warning",
            stacklevel=2,
        )
