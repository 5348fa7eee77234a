"""What one trace proved, as immutable data: the rows of every layer call of a forward, in order.

A plan serves every call of the same signature, whatever the names. Two plans of one structure that differ in
lengths only, and agree, make a general one, which serves every length: whole dimensions stay whole, blocks are
as long as the input dimension that they followed in both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Dict, FrozenSet, List, Mapping, Optional, Tuple

from shim.routing.layers import Kind
from shim.routing.owners import BY_INPUTS
from shim.routing.reads import Reads
from shim.routing.rows import RowRule

Shape = Tuple[Optional[int], ...]
Lengths = Mapping[str, Tuple[int, ...]]


@dataclass(frozen=True)
class PlannedCall:
    """One call of one adapted layer.

    shape: of its input, None where any size will do. rules: see `layers.run_rows`. shared: why no adapter can
    be chosen for some row, in words; harmless where none of the call's adapters has weights here. by_data: who
    decides the rows (`owners.BY_INPUTS`, `BY_ADAPTERS`), 0 where structure does. per_input: for each rule the
    input dimension that its blocks are as long as, in a general plan. lifted: the dimensions that its input, of one
    row for all samples, is expanded to first, so that each sample has a row of its own; see `lifting`.
    """

    layer: str
    kind: Kind
    shape: Shape
    rules: Tuple[Optional[RowRule], ...]
    shared: str = ""
    by_data: int = 0
    per_input: Tuple[Optional[Tuple[str, int]], ...] = ()
    lifted: Tuple[int, ...] = ()


@dataclass(frozen=True)
class Plan:
    """The layer calls of one forward in their order, and what they hang on.

    lengths: the shapes of the inputs that it was traced with. reads: what Python read of the inputs. numbers: the
    paths of single numbers among the outputs and the state that no sample has a part in, as the length of a static
    cache. placed: who decides which rows of the outputs a sample's values stand in, 0 where structure does.
    """

    calls: Tuple[PlannedCall, ...]
    lengths: Tuple[Tuple[str, Tuple[int, ...]], ...]
    reads: Reads = Reads.NOTHING
    numbers: FrozenSet[str] = frozenset()
    placed: int = 0

    def __post_init__(self) -> None:
        # Equal rules are one object, so that a call gathers the rows of each once.
        known: Dict[RowRule, RowRule] = {}
        calls = [
            replace(call, rules=tuple(rule and known.setdefault(rule, rule) for rule in call.rules))
            for call in self.calls
        ]
        object.__setattr__(self, "calls", tuple(calls))

    @cached_property
    def shared(self) -> Tuple[PlannedCall, ...]:
        """The calls some of whose rows no adapter can be chosen for."""
        return tuple(call for call in self.calls if call.shared)

    @cached_property
    def by_data(self) -> int:
        """Who decides the rows of some call, or of an output: 0 where structure decides all."""
        by_python = BY_INPUTS if self.reads == Reads.WORKED_OUT else 0
        return max([by_python, self.placed, *(call.by_data for call in self.calls)])

    @cached_property
    def is_lasting(self) -> bool:
        """Whether the plan serves other data of the same signature."""
        by_value = self.reads >= Reads.VALUES or (self.reads and any(map(_is_not_whole, self.calls)))
        return not self.by_data and not by_value


def generalize(one: Plan, other: Plan) -> Optional[Plan]:
    """Return the plan for every length that both plans are cases of, or None."""
    if not (one.is_lasting and other.is_lasting) or len(one.calls) != len(other.calls):
        return None
    calls: List[PlannedCall] = []
    for a, b in zip(one.calls, other.calls):
        call = _general_call(a, b, dict(one.lengths), dict(other.lengths))
        if call is None:
            return None
        calls.append(call)
    return Plan(tuple(calls), one.lengths, max(one.reads, other.reads), one.numbers & other.numbers)


def instantiate(general: Plan, lengths: Lengths) -> Plan:
    """Return `general` for inputs of the shapes `lengths`."""
    if not any(source is not None for call in general.calls for source in call.per_input):
        return general
    calls = []
    for call in general.calls:
        rules = tuple(
            rule if source is None or rule is None else _blocks(rule, lengths[source[0]][source[1]])
            for rule, source in zip(call.rules, call.per_input)
        )
        calls.append(replace(call, rules=rules, per_input=()))
    return replace(general, calls=tuple(calls), lengths=tuple(sorted(lengths.items())))


def fits(call: PlannedCall, shape: Tuple[int, ...]) -> bool:
    """Whether an input of `shape` is what `call` was planned for."""
    if shape == call.shape:  # as a rule, and in C
        return True
    return len(shape) == len(call.shape) and all(
        planned is None or planned == size for planned, size in zip(call.shape, shape)
    )


def to_json(plan: Plan) -> Any:
    """Return `plan` as data for JSON."""
    calls = [
        [
            c.layer,
            c.kind.value,
            c.shape,
            [r and [r.dim, r.owners] for r in c.rules],
            c.shared,
            c.by_data,
            c.per_input,
            c.lifted,
        ]
        for c in plan.calls
    ]
    numbers = sorted(plan.numbers)
    return {"calls": calls, "lengths": plan.lengths, "reads": plan.reads, "numbers": numbers, "placed": plan.placed}


def from_json(data: Any) -> Plan:
    """Return the plan that `to_json` gave `data` for."""
    calls = tuple(
        PlannedCall(
            layer,
            Kind(kind),
            tuple(shape),
            tuple(rule and RowRule(rule[0], tuple(rule[1])) for rule in rules),
            shared,
            by_data,
            tuple(source and (source[0], source[1]) for source in per_input),
            tuple(lifted),
        )
        for layer, kind, shape, rules, shared, by_data, per_input, lifted in data["calls"]
    )
    lengths = tuple((path, tuple(shape)) for path, shape in data["lengths"])
    return Plan(calls, lengths, Reads(data["reads"]), frozenset(data["numbers"]), data["placed"])


def _general_call(a: PlannedCall, b: PlannedCall, first: Lengths, second: Lengths) -> Optional[PlannedCall]:
    if _about(a) != _about(b):
        return None
    sources: List[Optional[Tuple[str, int]]] = []
    for one, other in zip(a.rules, b.rules):
        if one == other and (one is None or one.is_whole or len(set(one.owners)) == 1 == len(one.owners)):
            sources.append(None)
            continue
        source = None if one is None or other is None else _followed(one, other, first, second)
        if source is None:
            return None
        sources.append(source)
    shape = tuple(x if x == y else None for x, y in zip(a.shape, b.shape))
    return replace(a, shape=shape, per_input=tuple(sources))


def _about(call: PlannedCall) -> Tuple[Any, ...]:
    return (call.layer, call.kind, call.shared, call.lifted, len(call.rules), len(call.shape))


def _followed(one: RowRule, other: RowRule, first: Lengths, second: Lengths) -> Optional[Tuple[str, int]]:
    """Return the input dimension that the blocks of both rules are as long as."""
    samples = len(set(one.owners))
    if one.dim is None or one.dim != other.dim or len(set(other.owners)) != samples:
        return None
    per, per_other = len(one.owners) // samples, len(other.owners) // samples
    if per == per_other or one != _blocks(one, per) or other != _blocks(other, per_other):
        return None
    for path in sorted(set(first) & set(second)):
        for dim, (size, size_other) in enumerate(zip(first[path], second[path])):
            if (size, size_other) == (per, per_other):
                return path, dim
    return None


def _blocks(rule: RowRule, per: int) -> RowRule:
    samples = sorted(set(rule.owners))
    return RowRule(rule.dim, tuple(sample for sample in samples for _ in range(per)))


def _is_not_whole(call: PlannedCall) -> bool:
    return any(rule is not None and not rule.is_whole for rule in call.rules)
