"""Which sample each row of a layer call belongs to, as data that a call can be replayed by, and in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple

import torch

from shim.routing.owners import CONSTANT


@dataclass(frozen=True)
class RowRule:
    """The samples of the rows of one layer call.

    dim: the dimension along which the sample changes; None where it changes along several, and `owners` counts
        all row dimensions as one.
    owners: the sample, from 0, of each index along `dim`.
    """

    dim: Optional[int]
    owners: Tuple[int, ...]

    @property
    def is_whole(self) -> bool:
        """Whether `dim` holds one entry per sample, in order."""
        return self.dim is not None and self.owners == tuple(range(len(self.owners)))

    def in_words(self) -> str:
        """Return the layout as a sentence would have it: `dim 0, blocks of 4`."""
        where = f"dim {self.dim}" if self.dim is not None else "all row dimensions as one"
        return f"{where}, {_layout(self.owners)}"


def rule_of(owners: torch.Tensor) -> Optional[RowRule]:
    """Return the rule for rows whose owners (0 for none, 1.. for a sample, -1 for several) are `owners`.

    None where no row has an owner, so that any adapter will do. The caller has refused rows with several.
    """
    if owners.numel() == 0 or not bool((owners != CONSTANT).any()):
        return None
    # Nothing depends on a row without an owner: it goes with its neighbours.
    samples = torch.where(owners == CONSTANT, _neighbour(owners), owners) - 1
    varying = [dim for dim in range(samples.dim()) if not torch.equal(*_ends(samples, dim))]
    if len(varying) > 1 or samples.dim() == 0:
        return RowRule(None, tuple(samples.reshape(-1).tolist()))
    dim = varying[0] if varying else 0
    line = samples.movedim(dim, 0).reshape(samples.shape[dim], -1)[:, 0]
    return RowRule(dim, tuple(line.tolist()))


def _neighbour(owners: torch.Tensor) -> torch.Tensor:
    """Return for each row the owner that most rows with its index along the first varying dimension have."""
    filled = owners
    for dim in reversed(range(owners.dim())):
        filled = torch.where(filled == CONSTANT, filled.amax(dim, keepdim=True), filled)
    return filled


def _ends(values: torch.Tensor, dim: int) -> Tuple[torch.Tensor, torch.Tensor]:
    return values.amin(dim), values.amax(dim)


def _layout(owners: Tuple[int, ...]) -> str:
    samples, size = len(set(owners)), len(owners)
    if samples == 1:
        return f"every row of sample {owners[0]}" if size > 1 else f"one row, of sample {owners[0]}"
    if owners == tuple(range(size)):
        return "one entry per sample"
    if size % samples == 0:
        per = size // samples
        first = owners[::per]
        if owners == tuple(sample for sample in first for _ in range(per)):
            order = "" if first == tuple(sorted(first)) else f" in the order {list(first)}"
            return f"blocks of {per}{order}"
        if owners == owners[:samples] * per and len(set(owners[:samples])) == samples:
            return f"all {samples} samples, {per} times over"
    runs = _runs(owners)
    if len(runs) <= 12:
        return "segments " + ", ".join(f"{length} of sample {sample}" for sample, length in runs)
    return f"{len(runs)} segments"


def _runs(owners: Tuple[int, ...]) -> Tuple[Tuple[int, int], ...]:
    runs = []
    start = 0
    for index in range(1, len(owners) + 1):
        if index == len(owners) or owners[index] != owners[start]:
            runs.append((owners[start], index - start))
            start = index
    return tuple(runs)
