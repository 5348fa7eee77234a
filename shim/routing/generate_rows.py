"""Which sample each row of a model call inside `generate` belongs to: followed through generate, not assumed.

Generate expands its inputs, reorders beams, doubles the batch for guidance, and runs encoders before decoders.
A short generation of the base model is run once for each signature with its own operations traced, so that the
rows of every model call inside it are known by what was done to them. What encodes images ahead of the model takes
patches and gives features, other rows than it was given: its own operations are traced, too.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import torch

from shim.batch import MixedBatch
from shim.errors import Unroutable
from shim.modules import base_model_of, walk
from shim.no_trace import nothing_changed
from shim.routing.inputs import Inputs, cloned, main_input_names, parameter_names, root_name
from shim.routing.layers import tensors_of
from shim.routing.owners import BY_INPUTS, CONSTANT, MIXED
from shim.routing.plan import Plan
from shim.routing.plans import plan_for
from shim.routing.reads import Reads
from shim.routing.rows import RowRule
from shim.routing.trace import Owners, seed
from shim.routing.tracer import Tracer
from shim.selection import BASE, Route, is_routed_by, select

STEPS = 3
"""Tokens to generate: the prompt's call, and two whose inputs generate has reordered."""


class RowsUnknown(Unroutable):
    """No sample is known of any row of a model call: what it is given is packed, and nobody said whose it is."""


@dataclass(frozen=True)
class UnitRows:
    """The rows of one kind of model call: the sample of each, and those of inputs that have other rows.

    once: whether they are those of one call only, since values placed them, or since they are packed.
    """

    rows: Tuple[int, ...]
    owners: Owners = field(default_factory=dict)
    once: bool = False


_ENCODER = "encoder"
_ENCODED = "mm_encoder_outputs"
"""The argument by which the model gets what was encoded ahead of it."""

UnitKey = Tuple[str, int]
"""The module that is called, and its number of rows."""

Units = Mapping[UnitKey, UnitRows]


@dataclass(frozen=True)
class Unit:
    """One call of a model, or of its encoder, that generate makes."""

    name: str
    module: Any
    inputs: Inputs
    count: int

    @property
    def key(self) -> UnitKey:
        """What its rows are known by."""
        return self.name, self.count

    @property
    def encodes_ahead(self) -> bool:
        """Whether it may encode images or sounds ahead of the model; whatever decodes is given its cache."""
        return self.name not in ("", _ENCODER) and not self.inputs.caches()


class UnitRoute(Route):
    """A route that is told of every model call inside generate."""

    def begin(self, unit: Unit) -> None:
        """Prepare for the layer calls of `unit`."""
        raise NotImplementedError

    def end(self, unit: Unit, output: Any) -> None:
        """Conclude `unit`, which returned `output`."""
        raise NotImplementedError


class RowFollower(UnitRoute):
    """Follows the rows through generate's own operations while the base model runs."""

    def __init__(self, tracer: Tracer, batch: MixedBatch) -> None:
        self.units: Dict[UnitKey, UnitRows] = {}
        self.by_values = False
        self._tracer, self._batch = tracer, batch
        self._pause = ExitStack()
        self._in_unit = False
        self._plan: Optional[Plan] = None
        self._base = batch.selection(BASE)

    def run_layer(self, layer: Any, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run the base layer."""
        if not self._in_unit:
            raise Unroutable("generate calls an adapted layer outside of the model and its encoders")
        with select(self._base):
            return forward(layer, *args, **kwargs)

    def begin(self, unit: Unit) -> None:
        """Note the rows of the call's inputs, and make its plan."""
        self._in_unit = True
        self._pause.enter_context(self._tracer.paused())
        found = self._rows_of(unit)
        self.units[unit.key] = _agreed(self.units[unit.key], found, unit) if unit.key in self.units else found
        with select(self._base):
            self._plan = plan_for(
                unit.module, self._batch, unit.inputs, found.rows, found.owners, kind=f"unit {unit.name}"
            )
        if unit.encodes_ahead:
            self._pause.close()

    def end(self, unit: Unit, output: Any) -> None:
        """Give the outputs the owners of their rows, where they were not followed through the call."""
        if not unit.encodes_ahead:
            self._give_owners(unit, output)
            self._pause.close()
        self._in_unit = False

    def _give_owners(self, unit: Unit, output: Any) -> None:
        rows = self.units[unit.key].rows
        owner = torch.tensor(rows, dtype=torch.int32) + 1
        for path, tensor in tensors_of({"output": output, "state": unit.inputs.caches()}):
            dims = [dim for dim, size in enumerate(tensor.shape) if size == len(rows)]
            if self._plan is not None and path in self._plan.numbers:
                continue
            if not dims:
                ids = torch.full((), MIXED, dtype=torch.int32, device=tensor.device)
            else:
                shape = [-1 if dim == dims[0] else 1 for dim in range(tensor.dim())]
                ids = owner.to(tensor.device).view(shape)
            self._tracer.store.write(tensor, ids.expand(tensor.shape), tainted=True)

    def _rows_of(self, unit: Unit) -> UnitRows:
        rows: Optional[Tuple[int, ...]] = None
        owners: Dict[str, RowRule] = {}
        caches, by_values = unit.inputs.caches(), False
        for path, tensor in unit.inputs.tensors().items():
            if tensor.dim() == 0 or root_name(path) in caches:
                continue
            rule = self._rule(path, tensor)
            if rule is None:
                self._check_not_packed(unit, path, tensor)
                continue
            if self._tracer.store.by_data(tensor) == BY_INPUTS:
                if not unit.encodes_ahead and root_name(path) != _ENCODED:
                    raise Unroutable(f"values of the inputs decide which rows generate gives to {path!r}")
                by_values = self.by_values = True
            if rule.dim or tensor.shape[0] != unit.count:
                owners[path] = rule
            elif rows is not None and rows != rule.owners:
                raise Unroutable(f"the inputs of {unit.name or 'the model'} have their samples in different orders")
            else:
                rows = rule.owners
        if rows is None and owners and unit.encodes_ahead:
            rows = tuple(range(len(self._batch.names)))  # of what else there is one entry a sample
        if rows is None:
            raise Unroutable(f"no input of {unit.name or 'the model'} has rows whose samples are known")
        in_order = _all_in_order(rows, len(self._batch.names))
        if not in_order and not unit.encodes_ahead:
            shown = f"{list(rows[:8])}{', …' if len(rows) > 8 else ''}"
            raise Unroutable(
                f"generate calls {unit.name or 'the model'} with rows of samples {shown}, not of all in their order"
            )
        return UnitRows(rows, owners, unit.encodes_ahead and (by_values or not in_order))

    def _check_not_packed(self, unit: Unit, path: str, tensor: torch.Tensor) -> None:
        """Check that an encoder's input of no known samples is of none.

        Raises:
            RowsUnknown: it is of some.
        """
        ids, samples = self._tracer.store.ids(tensor), self._tracer.lattice.samples
        if unit.encodes_ahead and tensor.is_floating_point() and ids is not None and bool((ids > samples).any()):
            raise RowsUnknown(
                f"{unit.name} gets {path!r} of shape {tuple(tensor.shape)}, whose rows may be any sample's"
            )

    def _rule(self, path: str, tensor: torch.Tensor) -> Optional[RowRule]:
        """Return the sample of each index along dim 0, or along the first other dimension that keeps them apart.

        None where no sample, or not one for each index, is known.
        """
        ids, lattice = self._tracer.store.ids(tensor), self._tracer.lattice
        if ids is None:
            return None
        lattice.tainted = True
        for dim in range(ids.dim()):  # Qwen2-VL's positions are of (text, time, height, width) x samples
            line = lattice.reduce(ids, [other for other in range(ids.dim()) if other != dim])
            values: List[int] = line.reshape(-1).tolist()  # type: ignore[union-attr]
            if MIXED not in values:
                known = all(CONSTANT < value <= lattice.samples for value in values)
                return RowRule(dim, tuple(value - 1 for value in values)) if known else None
        raise Unroutable(f"generate mixes samples in {path!r} of shape {tuple(tensor.shape)}")


def _agreed(known: UnitRows, found: UnitRows, unit: Unit) -> UnitRows:
    """Return the rows of two calls of a model as one, with the inputs that only one of them has: images, in the first.

    Raises:
        Unroutable: an input has its samples in another order, or the rows are those of one call only.
    """
    check_not_again(known.once or found.once, unit)
    both = known.owners.keys() & found.owners.keys()
    if known.rows != found.rows or any(known.owners[path] != found.owners[path] for path in both):
        raise Unroutable(f"the rows of {unit.name or 'the model'} change their samples while it generates")
    return UnitRows(known.rows, {**known.owners, **found.owners})


def check_not_again(again: bool, unit: Unit) -> None:
    """Check that rows which are those of one call only are not taken for those of a second.

    Raises:
        Unroutable: they would be.
    """
    if again:
        raise Unroutable(
            f"generate calls {unit.name or 'the model'} again with {unit.count} rows, whose samples are unknown then"
        )


def _all_in_order(rows: Tuple[int, ...], samples: int) -> bool:
    """Whether a model call has every sample's rows in order, beam by beam, once or several times over.

    A generate that drops samples or sorts them (Whisper's of long audio) does so by values, which a later call does
    not share, nor this one under the adapters.
    """
    for beams in range(1, len(rows) // samples + 1):
        once = tuple(sample for sample in range(samples) for _ in range(beams))
        if len(rows) % len(once) == 0 and rows == once * (len(rows) // len(once)):
            return True
    return False


def follow_rows(function: Callable[..., Any], batch: MixedBatch, inputs: Inputs, owners: Owners) -> Tuple[Units, bool]:
    """Generate a few tokens with the base model and return the rows of every model call that was made.

    Beside them whether they are those of any call of the same settings: not where values of the inputs decided any.

    Raises:
        Unroutable: some row's sample cannot be told.
    """
    tracer = Tracer(len(batch.names))
    route = RowFollower(tracer, batch)
    selection = replace(batch.selection(BASE), route=route)
    with nothing_changed(batch.model), torch.inference_mode(False), torch.no_grad(), select(selection):
        copies = cloned(inputs)
        seed(tracer, copies, range(len(batch.names)), owners)
        with units_told(batch, route), tracer:
            copies.call(function)
    if not route.units:
        raise Unroutable("generate made no call of the model that could be followed")
    return route.units, tracer.reads < Reads.VALUES and not route.by_values


@contextmanager
def units_told(batch: MixedBatch, route: UnitRoute) -> Iterator[None]:
    """Tell `route` of every call of the model and of its encoders, in this thread's call only."""
    inside: List[Unit] = []
    with ExitStack() as stack:
        for name, module in _units_of(batch):
            begin, end = _hooks(name, route, inside)
            stack.enter_context(_attributes_restored(module))
            stack.callback(module.register_forward_pre_hook(begin, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(end).remove)
        yield


def _units_of(batch: MixedBatch) -> List[Tuple[str, Any]]:
    """Return the model and what generate may call of it besides, with names: its encoder, and parts with adapters.

    transformers encodes images by the parts of a model before it calls that, from huggingface/transformers#45783 on for
    all, and before in a generate of the model's own (BLIP).
    """
    base = base_model_of(batch.model)
    units: List[Tuple[str, Any]] = [("", base)]
    if getattr(getattr(base, "config", None), "is_encoder_decoder", False) and hasattr(base, "get_encoder"):
        units.append((_ENCODER, base.get_encoder()))
    adapted = {id(layer) for _, layer in batch.layers}
    known = {id(module) for _, module in units}
    for name, module in getattr(base, "base_model", base).named_children():
        if id(module) not in known and any(id(found.module) in adapted for found in walk(module, set())):
            units.append((name, module))
    return units


@contextmanager
def _attributes_restored(module: Any) -> Iterator[None]:
    """Take back the empty dictionary that a hook's registration leaves on torch 1.13, where the shim makes it."""
    before = "_forward_pre_hooks_with_kwargs" in vars(module)
    try:
        yield
    finally:
        if not before and not vars(module).get("_forward_pre_hooks_with_kwargs", True):
            del vars(module)["_forward_pre_hooks_with_kwargs"]


def _hooks(name: str, route: UnitRoute, inside: List[Any]) -> Tuple[Callable[..., None], Callable[..., None]]:
    def begin(module: Any, args: Sequence[Any], kwargs: Optional[Mapping[str, Any]] = None) -> None:
        # None for another thread that comes between the two steps in which torch registers a hook with keywords.
        if kwargs is None or not is_routed_by(route):
            return  # another thread's call, or a trace within this one
        if inside:
            inside.append(None)
            return
        inputs = Inputs.of(args, kwargs, parameter_names(module.forward))
        count = _count(module, inputs)
        unit = Unit(name, module, inputs, count)
        inside.append(unit)
        route.begin(unit)

    def end(module: Any, args: Any, output: Any) -> None:
        if not is_routed_by(route):
            return
        unit = inside.pop()
        if unit is not None:
            route.end(unit, output)

    return begin, end


def _count(module: Any, inputs: Inputs) -> int:
    """Return the number of rows of a model call: the length of the first of its usual inputs."""
    usual = ("input_ids", "decoder_input_ids", "inputs_embeds", "decoder_inputs_embeds")
    names = (*usual, *main_input_names(module), *inputs.values)
    for name in names:
        value = inputs.values.get(name)
        if isinstance(value, torch.Tensor) and value.dim():
            return int(value.shape[0])
    raise Unroutable("generate calls the model without a tensor that has rows")
