"""One forward of the base model with every element's owner followed: what it proves is a plan."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Callable, Collection, Dict, FrozenSet, Mapping, Optional, Sequence, Tuple

import torch

from shim.batch import MixedBatch
from shim.errors import Unroutable
from shim.modules import named_buffers
from shim.no_trace import nothing_changed
from shim.routing.inputs import SHARED, Inputs, cloned, root_name
from shim.routing.layers import tensors_of
from shim.routing.lifting import Lifts, ways_to_lift
from shim.routing.outputs import along, check_order, check_outputs, other_order
from shim.routing.owners import CONSTANT, MIXED, Settlement
from shim.routing.plan import Plan, PlannedCall
from shim.routing.reads import Reads
from shim.routing.recorder import Recorder, SeenCall
from shim.routing.rows import RowRule, rule_of
from shim.routing.running_modules import modules_told
from shim.routing.steady import Steady
from shim.routing.storage import address
from shim.routing.time_major import TimeMajor, check_time_major
from shim.routing.tracer import Tracer
from shim.routing.tree import shown
from shim.selection import BASE, is_routed, select

# What an earlier call has computed: adapters may have changed it. Then words in the names of what may be such.
_STATES = frozenset("past_key_values mems encoder_outputs encoder_hidden_states inputs_embeds".split())
_STATE_WORDS = ("mem", "state", "hidden", "embed", "output", "cache")

Owners = Mapping[str, RowRule]
"""For inputs that are not one entry per sample: whose each index is, along one dimension."""


def trace(function: Callable[..., Any], batch: MixedBatch, inputs: Inputs, rows: Sequence[int], owners: Owners) -> Plan:
    """Run the base model once on copies of `inputs` and return the plan of its layer calls.

    Args:
        rows: the sample of each entry along dim 0 of the inputs that have one entry per row.
        owners: the same for other inputs, by name.

    Raises:
        Unroutable: something stands in the way of a proof; the message says what and where.
    """
    check_routed(batch)
    first = _run(function, batch, inputs, rows, owners, {})
    if first.problem is None:
        check_time_major(function, batch, inputs, rows, owners, first.time_major)
    for lifts in ways_to_lift(first.plan, len(rows)):
        with suppress(Exception):  # the model does not take as many rows there
            lifted = _run(function, batch, inputs, rows, owners, lifts)
            if lifted.problem is None and not lifted.plan.shared and _same(first.output, lifted.output):
                check_time_major(function, batch, inputs, rows, owners, lifted.time_major)
                return lifted.plan
    if first.problem is not None:
        raise first.problem
    return first.plan


def trace_to_the_end(
    function: Callable[..., Any], batch: MixedBatch, inputs: Inputs, rows: Sequence[int], owners: Owners
) -> Plan:
    """As `trace`, in exactly one forward, which is run to its end whatever it meets.

    Raises:
        Unroutable: something stands in the way of a proof.
    """
    found = _run(function, batch, inputs, rows, owners, {}, to_the_end=True)
    if found.problem is not None:
        raise found.problem
    if found.time_major:
        raise Unroutable(
            f"{shown(next(iter(found.time_major)))} has as many rows as samples, which lie elsewhere in it"
        )
    return found.plan


def trace_owners(
    function: Callable[..., Any],
    batch: MixedBatch,
    inputs: Inputs,
    rows: Sequence[int],
    owners: Owners,
    doubted: Collection[str],
) -> Owners:
    """Return whose each index is of the inputs `doubted`, as one forward of the base model shows it.

    An input of which it does not show all is left out, and one in which the samples stand in another order.

    Raises:
        Unroutable: the forward cannot be followed.
    """
    check_routed(batch)
    found = _run(function, batch, inputs, rows, owners, {}, to_the_end=True, doubted=doubted).claimed
    whole = {path: owner for path, owner in found.items() if bool((owner > CONSTANT).all()) and not other_order(owner)}
    rules = {path: rule_of(owner) for path, owner in whole.items()}
    return {path: rule for path, rule in rules.items() if rule is not None}


@dataclass(frozen=True)
class _Traced:
    """One traced run: its plan, its output, and what stands in the way of believing the plan, if anything does.

    claimed: the owners of the inputs that were doubted.
    time_major: the outputs as long as the batch whose samples lie along another dimension than the first.
    """

    plan: Plan
    output: Any
    problem: Optional[Unroutable]
    claimed: Mapping[str, torch.Tensor]
    time_major: TimeMajor


def _run(
    function: Callable[..., Any],
    batch: MixedBatch,
    inputs: Inputs,
    rows: Sequence[int],
    owners: Owners,
    lifts: Lifts,
    to_the_end: bool = False,
    doubted: Collection[str] = (),
) -> _Traced:
    """Run the base model once; the layers in `lifts` get a row for each sample in the place of one that all share."""
    tracer = Tracer(max(rows) + 1)
    recorder = Recorder(tracer, batch, lifts)
    base = replace(batch.selection(BASE), trains=False)
    route = Steady(recorder, base, (Unroutable,) if to_the_end else ())
    selection = replace(base, route=route)
    with nothing_changed(batch.model), torch.inference_mode(False), torch.no_grad(), select(selection):
        copies = cloned(inputs)
        seeded = seed(tracer, copies, rows, owners, doubted)
        with modules_told(tracer, batch), tracer:
            output = copies.call(function)
        state = {"output": output, "state": copies.caches()}
        problem: Optional[Unroutable] = None
        time_major: TimeMajor = {}
        settlement = settle(tracer, state, rows)
        try:
            route.check()
            time_major = check_outputs(tracer, settlement, state, rows, batch, seeded)
            check_order(tracer, settlement, seeded)
            check_buffers(tracer, batch)
        except Unroutable as unroutable:
            unroutable.by_value = tracer.reads > Reads.NOTHING
            problem = unroutable
    calls = tuple(_settled(call, settlement, tracer) for call in recorder.calls)
    plan = Plan(calls, _lengths(inputs), tracer.reads, _numbers(tracer, state), _placed(tracer, state))
    claimed = {path: settlement.owners_of(seeded[path]) for path in doubted if path in seeded}
    return _Traced(plan, state, problem, claimed, time_major)


def _placed(tracer: Tracer, state: Any) -> int:
    """Return who decides which rows of the outputs the values that adapters change stand in."""
    store = tracer.store
    return max((store.by_data(tensor) for _, tensor in tensors_of(state) if store.tainted(tensor)), default=0)


def _numbers(tracer: Tracer, state: Any) -> FrozenSet[str]:
    """Return the paths of single numbers that no sample has a part in, as the length of a static cache."""
    return frozenset(
        path for path, tensor in tensors_of(state) if _is_number(tensor) and not tracer.store.knows(tensor)
    )


def _is_number(tensor: torch.Tensor) -> bool:
    """Whether a tensor is one integer, as transformers 5 keeps the length of a static cache."""
    return tensor.numel() == 1 and tensor.dim() < 2 and not tensor.is_floating_point()


def _same(one: Any, other: Any) -> bool:
    """Whether two runs of the base model gave the same, so that a row more or less of a shared layer is no matter."""
    pairs = list(zip(tensors_of(one), tensors_of(other)))
    if len(tensors_of(one)) != len(tensors_of(other)):
        return False
    return all(a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, equal_nan=True) for (_, a), (_, b) in pairs)


def seed(
    tracer: Tracer, inputs: Inputs, rows: Sequence[int], owners: Owners, doubted: Collection[str] = ()
) -> Dict[str, torch.Tensor]:
    """Give every input tensor its owners: a sample for each row, or a variable where the owner is not known.

    Return them by path. An input that is `doubted` gets variables though it is as long as the batch, and what is made
    of it is followed though no adapter has changed it.
    """
    caches, seeded = inputs.caches(), {}
    for path, tensor in inputs.tensors().items():
        name = root_name(path)
        if tensor.dim() == 0 or name in SHARED or (name in caches and _is_number(tensor)):
            continue
        dim, known = 0, True
        if path in owners:
            dim = owners[path].dim or 0
            ids = torch.tensor(owners[path].owners, dtype=torch.int32, device=tensor.device) + 1
        elif tensor.shape[0] == len(rows) and path not in doubted:
            ids = torch.tensor(rows, dtype=torch.int32, device=tensor.device) + 1
        else:
            dim, known = _packed_dim(tensor), False
            ids = tracer.lattice.fresh(tensor.shape[dim], tensor.device)
        along = ids.view([-1 if index == dim else 1 for index in range(tensor.dim())])
        seeded[path] = along
        tracer.given.add(address(tensor))
        tainted = path in doubted or name in caches or name in _STATES or (known and _is_state(path, tensor))
        tracer.store.write(tensor, along.expand(tensor.shape), tainted=tainted)
    return seeded


def _is_state(path: str, tensor: torch.Tensor) -> bool:
    """Whether an input with rows of its own may hold what adapters made in an earlier call.

    By a word in its name, or as one of several tensors: RWKV's `state` is such a list, and the model mixes the samples
    of it in each step after the first.
    """
    name = root_name(path)
    several = path != name
    return tensor.is_floating_point() and (several or any(word in name for word in _STATE_WORDS))


def _packed_dim(tensor: torch.Tensor) -> int:
    """Return the dimension along which a tensor that is not one entry per sample may hold parts of samples.

    A guess that decides nothing: a wrong one gives rows that several samples claim, which is refused.
    """
    if tensor.shape[0] != 1 or tensor.dim() == 1:
        return 0
    sizes = list(tensor.shape)
    return 1 if tensor.dim() == 3 else sizes.index(max(sizes))


def settle(tracer: Tracer, output: Any, rows: Sequence[int]) -> Settlement:
    """Settle the variables: what stands in a sample's row of the output belongs to that sample."""
    expected = torch.tensor(rows, dtype=torch.int32) + 1
    tensors = tensors_of(output)
    for _, tensor in tensors:
        ids = tracer.store.ids(tensor)
        if ids is not None and tensor.dim() and tensor.shape[0] == len(rows) and tracer.lattice.has_variables:
            tracer.lattice.by_data = 0
            tracer.lattice.claim(ids, along(expected, 0, tensor))
    return tracer.lattice.settle()


def check_buffers(tracer: Tracer, batch: MixedBatch) -> None:
    """Check that the forward of a model in training mode keeps nothing that adapters change.

    Raises:
        Unroutable: a buffer has part in it, so that rows of later calls would depend on all adapters of this one.
    """
    for name, buffer in named_buffers(batch.model) if batch.is_training else ():
        if tracer.store.tainted(buffer):
            raise Unroutable(f"the buffer {name} is written with what adapters change")


def _settled(call: SeenCall, settlement: Settlement, tracer: Tracer) -> PlannedCall:
    owners = [settlement.owners_of(ids) for ids in call.ids]
    by = [int(settlement.by_data.to(i.device)[i.clamp(min=0).long()].max()) if i.numel() else 0 for i in call.ids]
    planned = replace(call.planned, by_data=max([call.planned.by_data, *by]))
    if any(bool((owner == MIXED).any()) for owner in owners):
        mixed = any(bool((ids == MIXED).any()) for ids in call.ids)
        what = f"mixed by {tracer.mixers[0]}" if mixed and tracer.mixers else "computed once for several samples"
        return replace(planned, shared=f"rows of its input {planned.shape} are {what}")
    return replace(planned, rules=tuple(rule_of(owner) for owner in owners))


def _lengths(inputs: Inputs) -> Tuple[Tuple[str, Tuple[int, ...]], ...]:
    caches = inputs.caches()
    tensors = inputs.tensors().items()
    return tuple(sorted((path, tuple(t.shape)) for path, t in tensors if root_name(path) not in caches))


def check_routed(batch: MixedBatch) -> None:
    """Check that a call's route runs every adapted layer.

    Raises:
        Unroutable: it does not run one.
    """
    for name, layer in batch.layers:
        if not is_routed(layer):
            raise Unroutable(
                f"the forward of {name} was replaced, or its class was made after shim.install(), or accelerate hooked "
                "it before"
            )
