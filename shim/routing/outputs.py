"""What a traced forward must have given: each output element one sample's, in that sample's place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Sequence, Tuple

import torch

from shim import policy
from shim.batch import MixedBatch
from shim.errors import Unroutable
from shim.routing.owners import CONSTANT, MIXED, Settlement
from shim.routing.places import in_even_places, in_order
from shim.routing.reads import Reads
from shim.routing.time_major import TimeMajor
from shim.routing.tracer import Tracer
from shim.routing.tree import is_opaque, leaves, shown

# Of all samples in training mode: the loss of a model of transformers, or a model's only output.
_LOSSES = frozenset({"output.loss", "output"})


@dataclass(frozen=True)
class _Shown:
    """What a traced forward showed: who owns what, the samples of the batch's rows, and the owners of packed inputs."""

    tracer: Tracer
    settlement: Settlement
    rows: torch.Tensor
    packed: Sequence[torch.Tensor]


def check_outputs(
    tracer: Tracer,
    settlement: Settlement,
    output: Any,
    rows: Sequence[int],
    batch: MixedBatch,
    seeded: Mapping[str, torch.Tensor],
) -> TimeMajor:
    """Check that each row of the output holds its own sample; return the outputs whose samples lie in other rows.

    In training mode a single number that is the loss is of all samples, and its gradient each adapter's own.

    Args:
        seeded: the ids that the inputs got, by path.

    Raises:
        Unroutable: an output mixes samples, or cannot be looked into, or a value escaped whose owner matters.
    """
    if tracer.obstacles:
        raise Unroutable(tracer.obstacles[0])
    expected = torch.tensor(rows, dtype=torch.int32) + 1
    shown_by = _Shown(tracer, settlement, expected, _packed(seeded, settlement, expected))
    allowed = policy.chosen().mixed_outputs
    found: Dict[str, Tuple[int, Tuple[int, ...]]] = {}
    for path, leaf in leaves(output):
        if isinstance(leaf, torch.Tensor):
            is_loss = batch.is_training and path in _LOSSES and leaf.dim() == 0
            if shown(path).strip("'") not in allowed and not is_loss:
                dim = _check_output(path, leaf, shown_by)
                if dim:
                    found[path] = dim, tuple(leaf.shape)
        elif is_opaque(leaf):
            raise Unroutable(f"output {shown(path)} is a {type(leaf).__name__}, and what is in it cannot be seen")
    return found


def check_order(tracer: Tracer, settlement: Settlement, seeded: Mapping[str, torch.Tensor]) -> None:
    """Check that packed inputs hold the samples in the order in which the output does.

    Where they do not, the names may be meant for the one or for the other.

    Raises:
        Unroutable: an input does not.
    """
    for path, ids in seeded.items():
        if bool((ids > tracer.lattice.samples).any()):  # variables: nobody said whose they are
            order = other_order(settlement.owners_of(ids))
            if order:
                raise Unroutable(
                    f"the rows of input {shown(path)} come out in another order of samples, {order}, so that it is not "
                    f"known whose they are; owners={{{shown(path)}: [...]}} tells"
                )


def other_order(owner: torch.Tensor) -> List[int]:
    """Return the samples as they first appear among owners, from 0, or nothing where that is their own order."""
    found = list(dict.fromkeys(owner[owner > CONSTANT].tolist()))
    return [] if found == sorted(found) else [sample - 1 for sample in found]


def along(rows: torch.Tensor, dim: int, tensor: torch.Tensor) -> torch.Tensor:
    """Return one number for each index of `tensor` along `dim`, to broadcast with it."""
    shape = [len(rows) if index == dim else 1 for index in range(tensor.dim())]
    return rows.to(tensor.device).view(shape)


def _packed(seeded: Mapping[str, torch.Tensor], settlement: Settlement, rows: torch.Tensor) -> List[torch.Tensor]:
    """Return the owners of each index of the inputs that are not one entry a sample; those without any are left out."""
    lines = [settlement.owners_of(ids).reshape(-1) for ids in seeded.values()]
    own = [line for line in lines if bool((line > CONSTANT).any())]
    several = len(rows.unique()) < len(rows)  # the rows themselves are packed
    return [line for line in own if several or not torch.equal(line, rows.to(line.device))]


def _check_output(path: str, tensor: torch.Tensor, shown_by: _Shown) -> int:
    """Check that an output which adapters change holds each sample's values in that sample's rows; return their dim.

    Raises:
        Unroutable: an element depends on several samples, or stands in another sample's row.
    """
    tracer, count = shown_by.tracer, len(shown_by.rows)
    ids = tracer.store.ids(tensor)
    if ids is None or not tensor.numel() or not tracer.store.tainted(tensor):
        return 0
    owner = shown_by.settlement.owners_of(ids)
    if bool((owner == MIXED).any()):
        why = f": {tracer.mixers[0]}" if tracer.mixers else ""
        raise Unroutable(f"output {shown(path)} of shape {tuple(tensor.shape)} mixes samples{why}{_allowed(path)}")
    if bool(((ids > tracer.lattice.samples) & (owner == CONSTANT)).any()):
        raise Unroutable(
            f"output {shown(path)} of shape {tuple(tensor.shape)} depends on the adapter, but belongs to no sample"
        )
    if tensor.dim() == 0 or tensor.shape[0] != count:
        _check_places(path, tensor, owner, shown_by)
        return 0
    for dim, size in enumerate(tensor.shape):
        if size == count and bool(((owner == CONSTANT) | (owner == along(shown_by.rows, dim, tensor))).all()):
            return dim
    raise Unroutable(f"output {shown(path)} of shape {tuple(tensor.shape)} holds a sample in another's row")


def _check_places(path: str, tensor: torch.Tensor, owner: torch.Tensor, shown_by: _Shown) -> None:
    """Check that an output in which no row stands for a sample holds the samples where its caller looks for them.

    Raises:
        Unroutable: it does not.
    """
    rows, by_data = shown_by.rows.to(owner.device), shown_by.tracer.store.by_data(tensor) > 0
    uneven = bool(shown_by.packed) or shown_by.tracer.reads >= Reads.VALUES or by_data
    packed = [line.to(owner.device) for line in shown_by.packed]
    if not in_even_places(owner, rows) and not (uneven and in_order(owner, rows, packed)):
        raise Unroutable(f"output {shown(path)} of shape {tuple(tensor.shape)} holds {_misplaced(owner, rows)}")


def _misplaced(owner: torch.Tensor, rows: torch.Tensor) -> str:
    """Say what an output holds whose samples are not all in their places."""
    absent = rows[~torch.isin(rows, owner)].tolist()
    return f"nothing of sample {absent[0] - 1}" if absent else "a sample in another's place"


def _allowed(path: str) -> str:
    """Return the way out for outputs that are meant to compare or add up samples."""
    name = shown(path)
    meant = "logits_per_" in name or name == "'loss'"
    return f"; shim.install(mixed_outputs=[{name}]) allows it" if meant else ""
