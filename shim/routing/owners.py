"""Who owns a value: the ids that a trace carries, how they join, and how unknown owners are settled.

An id is 0 for a constant (it depends on no sample), 1..n for a sample, above n for a variable (one row whose
owner is not known yet), -1 for a value that depends on several samples. Ids are int32 tensors.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Set, Tuple

import torch

CONSTANT = 0
MIXED = -1
BY_INPUTS, BY_ADAPTERS = 1, 2
_NOWHERE = 2**30

Ids = Optional[torch.Tensor]
"""Ids of the shape of a tensor, or None where all of them are constant."""


@dataclass(frozen=True)
class Settlement:
    """What became of the variables of a trace.

    owner: id -> 0 (nothing depends on the row, any adapter will do), 1..n, or -1 (several samples share it).
    by_data: for each id 0, or who decided it through a data-dependent index: the inputs, or the adapters too.
    """

    owner: torch.Tensor
    by_data: torch.Tensor

    def owners_of(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the owner of each id: 0 for none, 1.. for a sample, -1 for several."""
        owner = self.owner.to(ids.device)
        return torch.where(ids < 0, ids, owner[ids.clamp(min=0).long()])


class Lattice:
    """The ids of one trace over `samples` samples, and what is known of its variables.

    tainted: whether the values at hand depend on an adapted layer. Values that do not are the same under every
    adapter, so a clash between them loses a hint and harms nothing; between tainted ones it is MIXED.
    compared: whether values at hand that no adapter changes were made of one sample's and another's, place by place.
    by_data: whether an id at hand came through a data-dependent index: 0 (no), else who decides, `BY_INPUTS` or
    `BY_ADAPTERS`. Set to True it takes `decider`, which of them an index at hand would be.
    """

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.tainted = False
        self.compared = False
        self.decider = BY_ADAPTERS
        self._by_data = 0
        self._last = samples
        self._pairs: Set[Tuple[int, int, int]] = set()

    @property
    def by_data(self) -> int:
        """Who decides the ids at hand: 0 where structure does."""
        return self._by_data

    @by_data.setter
    def by_data(self, value: int) -> None:
        self._by_data = max(self._by_data, self.decider) if value is True else int(value)

    @property
    def has_variables(self) -> bool:
        """Whether any variable was made."""
        return self._last > self.samples

    def fresh(self, count: int, device: Any) -> torch.Tensor:
        """Return `count` new variables."""
        first = self._last + 1
        self._last += count
        return torch.arange(first, first + count, dtype=torch.int32, device=device)

    def join(self, *ids: Ids) -> Ids:
        """Return the ids of values made of all of `ids`, element by element; broadcasts."""
        known = [one for one in ids if one is not None]
        joined = known[0] if known else None
        for one in known[1:]:
            joined = self._join(*torch.broadcast_tensors(joined, one))
        return joined

    def reduce(self, ids: Ids, dims: Sequence[int]) -> Ids:
        """Return the join over `dims`, which stay with size 1."""
        if ids is None:
            return None
        dims = sorted({dim % ids.dim() for dim in dims}) if ids.dim() else []
        if not dims:
            return ids
        if ids.numel() == 0:
            shape = [1 if dim in dims else size for dim, size in enumerate(ids.shape)]
            return torch.zeros(shape, dtype=torch.int32, device=ids.device)
        same = self.uniform(ids, dims)
        return self._reduce(ids, dims) if same is None else same

    def uniform(self, ids: torch.Tensor, dims: Sequence[int]) -> Ids:
        """Return the ids over `dims`, which stay with size 1, if none varies there; None if one does, or none is."""
        if ids.numel() == 0:
            return None
        low = ids.amin(list(dims), keepdim=True)
        return low if torch.equal(low, ids.amax(list(dims), keepdim=True)) else None

    def varies(self, ids: Ids, dims: Sequence[int]) -> bool:
        """Whether ids differ along any of `dims`."""
        if ids is None or not ids.numel() or not any(ids.shape[dim] > 1 for dim in dims):
            return False
        return self.uniform(ids, dims) is None

    def several(self, ids: Ids, dims: Sequence[int]) -> bool:
        """Whether elements along any of `dims` have different owners, constants aside."""
        if ids is None or not ids.numel():
            return False
        owned = ids != CONSTANT
        low = torch.where(owned, ids, _NOWHERE).amin(list(dims))
        return bool((low < torch.where(owned, ids, -_NOWHERE).amax(list(dims))).any())

    def spread(self, ids: torch.Tensor, positions: torch.Tensor, sources: torch.Tensor) -> torch.Tensor:
        """Return `ids` with `sources` joined in at the flat `positions`; any number of sources per position."""
        size = ids.numel()
        index = torch.cat([torch.arange(size, device=ids.device), positions.reshape(-1)])
        values = torch.cat([ids.reshape(-1), sources.reshape(-1)])
        sample = (values != CONSTANT) & (values <= self.samples)
        low = _extreme(size, index, torch.where(sample, values, _NOWHERE), "amin")
        high = _extreme(size, index, torch.where(sample, values, -_NOWHERE), "amax")
        joined = self._of_samples(low, high)
        if self.has_variables:
            lowest = _extreme(size, index, torch.where(values > self.samples, values, _NOWHERE), "amin")
            if self.tainted:
                joined = torch.where((joined == CONSTANT) & (lowest != _NOWHERE) & (low == _NOWHERE), lowest, joined)
                self._note(joined[index], values)
            else:
                top = _extreme(size, index, torch.where(values > self.samples, values, -_NOWHERE), "amax")
                joined = torch.where((low == _NOWHERE) & (lowest == top), lowest, joined)
        return joined.to(torch.int32).view(ids.shape)

    def claim(self, ids: torch.Tensor, owners: torch.Tensor) -> None:
        """Note that the variables among `ids` belong to `owners`, which broadcast."""
        self._note(*torch.broadcast_tensors(owners, ids))

    def settle(self) -> Settlement:
        """Return the owner of every id, from all joins that were seen."""
        parent = list(range(self._last + 1))

        def root(one: int) -> int:
            while parent[one] != one:
                parent[one] = parent[parent[one]]
                one = parent[one]
            return one

        for low, high, _ in self._pairs:
            if low > self.samples:
                parent[root(high)] = root(low)
        owners: Dict[int, Set[int]] = {}
        data: Dict[int, int] = {}
        for low, high, by_data in self._pairs:
            if low <= self.samples:
                owners.setdefault(root(high), set()).add(low)
            if by_data:
                data[root(high)] = max(by_data, data.get(root(high), 0))
        owner: List[int] = list(range(self._last + 1))
        for variable in range(self.samples + 1, self._last + 1):
            found = owners.get(root(variable), {CONSTANT})
            owner[variable] = next(iter(found)) if len(found) == 1 else MIXED
        by = [data.get(root(one), 0) if one > self.samples else 0 for one in range(self._last + 1)]
        return Settlement(torch.tensor(owner, dtype=torch.int32), torch.tensor(by))

    def checkpoint(self) -> Any:
        """Return what `rewind` takes back to."""
        return set(self._pairs)

    def rewind(self, checkpoint: Any) -> None:
        """Forget what was noted since `checkpoint`."""
        self._pairs = checkpoint

    def _join(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        if torch.equal(a, b):
            return a
        if not self.tainted and not self.compared:
            self.compared = bool(((a != b) & (a > CONSTANT) & (b > CONSTANT)).any())
        if not self.has_variables:
            clash = torch.full_like(a, MIXED if self.tainted else CONSTANT)
        elif self.tainted:
            self._note(a, b)
            both = torch.maximum(a, b) <= self.samples
            clash = torch.where(both, MIXED, torch.minimum(a, b))
        else:
            one_is_sample = (torch.minimum(a, b) <= self.samples) & (torch.maximum(a, b) > self.samples)
            clash = torch.where(one_is_sample, torch.minimum(a, b), CONSTANT)
        joined = torch.where((b == CONSTANT) | (a == b), a, torch.where(a == CONSTANT, b, clash))
        return joined.to(torch.int32)

    def _reduce(self, ids: torch.Tensor, dims: Sequence[int]) -> torch.Tensor:
        dims = list(dims)
        sample = (ids != CONSTANT) & (ids <= self.samples)
        low = torch.where(sample, ids, _NOWHERE).amin(dims, keepdim=True)
        high = torch.where(sample, ids, -_NOWHERE).amax(dims, keepdim=True)
        joined = self._of_samples(low, high)
        if self.has_variables:
            lowest = torch.where(ids > self.samples, ids, _NOWHERE).amin(dims, keepdim=True)
            if self.tainted:
                joined = torch.where((low == _NOWHERE) & (lowest != _NOWHERE), lowest, joined)
                self._note(joined.expand_as(ids), ids)
            else:
                top = torch.where(ids > self.samples, ids, -_NOWHERE).amax(dims, keepdim=True)
                joined = torch.where((low == _NOWHERE) & (lowest == top), lowest, joined)
        return joined.to(torch.int32)

    def _of_samples(self, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        clash = MIXED if self.tainted else CONSTANT
        return torch.where(low == _NOWHERE, CONSTANT, torch.where(low == high, low, clash))

    def _note(self, a: torch.Tensor, b: torch.Tensor) -> None:
        """Remember every pair of different ids in which a variable takes part."""
        low, high = torch.minimum(a, b), torch.maximum(a, b)
        new = (low != high) & (low != CONSTANT) & (high > self.samples)
        if bool(new.any()):
            pairs = torch.stack([low[new], high[new]], 1).unique(dim=0).tolist()
            self._pairs.update((one, other, self.by_data) for one, other in pairs)


def _extreme(size: int, index: torch.Tensor, values: torch.Tensor, which: str) -> torch.Tensor:
    start = _NOWHERE if which == "amin" else -_NOWHERE
    filled = torch.full((size,), start, dtype=torch.int32, device=values.device)
    return filled.scatter_reduce(0, index, values.to(torch.int32), which)


def _warned_once() -> None:
    """Use up the warning that scatter_reduce is in beta, which torch 1.13 gives once in a process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _extreme(1, torch.zeros(1, dtype=torch.long), torch.zeros(1), "amin")


_warned_once()
