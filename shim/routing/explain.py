"""Say which way a call would go, layer by layer, and why; nothing of the model is changed."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import torch

from shim import policy
from shim.batch import MixedBatch, resolve
from shim.errors import RefusedError, Unroutable
from shim.modules import base_model_of
from shim.prompts import method_of_model
from shim.ranks import ranks_of
from shim.routing.inputs import Inputs, check_known, check_owners, check_sample_count
from shim.routing.layers import RowGroups
from shim.routing.one_pass import NeedsLive, check_methods, check_shared_layers, decided_by_data, prefers_live
from shim.routing.owners import BY_ADAPTERS
from shim.routing.packed import split_packed
from shim.routing.plan import Plan, PlannedCall
from shim.routing.plans import plan_for
from shim.routing.rehearsal import layout_for
from shim.routing.split import forward_and_caches
from shim.routing.trace import Owners

_TRACED_ANEW = "traced at every call, since values of the inputs decide whose some rows are"


@dataclass(frozen=True)
class LayerRoute:
    """The rows of one adapted layer: the shape of its input and the layout in words, for each of its calls."""

    layer: str
    calls: Tuple[str, ...]


@dataclass(frozen=True)
class Explanation:
    """Which way a call goes.

    route: `plain` (one distinct name), `one pass` (by a plan), `live` (one pass, the rows traced as they come),
        `split` (one sub-batch per adapter) or `refuse`.
    reason: why it is not one pass: the layer or output, its shape, the operation that mixed samples; or, of one pass,
        why its plan is made anew at every call.
    layers: the rows of every adapted layer, where they are known.
    """

    route: str
    reason: str = ""
    layers: Tuple[LayerRoute, ...] = ()

    def __str__(self) -> str:
        """Return the explanation as lines of text."""
        lines = [f"route: {self.route}" + (f" ({self.reason})" if self.reason else "")]
        for layer in self.layers:
            lines += [f"  {layer.layer}: {call}" for call in layer.calls]
        return "\n".join(lines)


def explain(
    model: Any,
    inputs: Mapping[str, Any],
    adapter_names: Sequence[str],
    *,
    owners: Optional[Mapping[str, Any]] = None,
) -> Explanation:
    """Return the route that `model(**inputs, adapter_names=adapter_names)` takes, layer by layer.

    Runs the base model where no plan is known yet, as the call itself would.

    Args:
        owners: whose each index is of inputs that are not one entry per sample; see `inputs.check_owners`.

    Raises:
        UnknownAdapterError, AdapterNamesError: as the call itself would.
    """
    batch = resolve(model, list(adapter_names))
    given = Inputs.of((), dict(inputs), ())
    known = check_owners(owners or {}, batch, given)
    check_sample_count(batch, given, known)
    if len(batch.groups) == 1:
        return Explanation("plain")
    ranks = ranks_of(model)
    if ranks is not None and ranks.by_data:
        raise RefusedError(
            "explain and plan run the model, whose weights are sharded by fully_shard: this rank would wait for the "
            "others. Ask before the model is sharded; a call makes its plan by itself, on all ranks together"
        )
    return _explained(forward_of(model), batch, given, known)


def _explained(function: Any, batch: MixedBatch, given: Inputs, known: Owners) -> Explanation:
    """Return the route of a batch of several names, which has passed the checks of a call."""
    try:
        check_known(given)
        check_methods(batch)
        plan = plan_for(function, batch, given, range(len(batch.names)), known)
    except RefusedError as refused:
        return Explanation("refuse", str(refused))
    except Unroutable as reason:
        return _fallback(function, batch, given, known, reason, ())
    layers = tuple(_layers(plan))
    try:
        check_shared_layers(plan, batch, RowGroups(batch))
    except Unroutable as reason:
        return _fallback(function, batch, given, known, reason, layers)
    if plan.by_data != BY_ADAPTERS:
        return Explanation("one pass", _TRACED_ANEW if plan.by_data else "", layers)
    if not prefers_live(batch):
        why = NeedsLive(
            f"data decides the rows of {decided_by_data(plan)}, and a split costs less than tracing while running"
        )
        split = _fallback(function, batch, given, known, why, layers)
        if split.route == "split":
            return split
    return Explanation("live", "", layers)


def forward_of(model: Any) -> Any:
    """Return the forward of `model` below the shim's wrapper; a model with adapters of its own is called as a whole."""
    if base_model_of(model) is model:
        return functools.partial(torch.nn.Module.__call__, model)
    forward = type(model).forward
    return method_of_model(model, getattr(forward, "__wrapped__", forward), "forward")


def _fallback(
    function: Any, batch: MixedBatch, inputs: Inputs, owners: Owners, why: Unroutable, layers: Tuple[LayerRoute, ...]
) -> Explanation:
    reason = str(why)
    if policy.chosen().fallback == policy.REFUSE:
        return Explanation("refuse", reason, layers)
    rehearsed = functools.partial(forward_and_caches, function, batch, rehearsing=True)

    def rehearse(known: Owners) -> Any:
        return layout_for(rehearsed, batch, inputs, known, "forward", proven_anew=why.hangs_on_values)

    try:
        split_packed(rehearse, function, batch, inputs, owners)
    except RefusedError as refused:
        return Explanation("refuse", f"{refused} [in one pass: {reason}]", layers)
    return Explanation("split", reason, layers)


def _layers(plan: Plan) -> List[LayerRoute]:
    calls: Dict[str, List[str]] = {}
    for call in plan.calls:
        calls.setdefault(call.layer, []).append(_in_words(call))
    return [LayerRoute(layer, tuple(words)) for layer, words in calls.items()]


def _in_words(call: PlannedCall) -> str:
    shape = f"input {call.shape}: " if call.shape else ""
    if call.shared:
        return f"{shape}{call.shared}"
    rules = ["any adapter will do" if rule is None else rule.in_words() for rule in call.rules]
    if call.lifted:
        shape += f"one row for all, expanded to {' x '.join(map(str, call.lifted))}; "
    return shape + "; ".join(rules) + (" (decided by data)" if call.by_data else "")
