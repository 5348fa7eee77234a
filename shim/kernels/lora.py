"""B(A(x)) * scaling of many LoRA adapters at once, added to a layer's output: rows select theirs, never by a mask.

Two ways, alike up to the order of summation. `Bank`: the adapters' weights side by side, in their own memory or copied,
one batched product down and one up, whatever the number of adapters. `Segments`: one adapter after the other on its
rows, its weights as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Optional, Sequence, Union

import torch

from shim.kernels.tables import RowTable, Tiles
from shim.kernels.weights import Weights, side_by_side

Scaling = Union[float, torch.Tensor]

# Up to this many weights of an adapter in a layer, copying them side by side costs less than a product of their own;
# more where the adapter has more tokens. On CPU, widths 512 and 1024, ranks 8 to 64, 2 to 32 adapters.
COPIED = 16 * 1024
COPIED_PER_TOKEN = 1024
# Up to this many tokens a row, a generate's weights are kept side by side for its next tokens.
KEPT_UP_TO = 8


@dataclass(frozen=True)
class Bank:
    """The weights of every tile, side by side. down: (tiles, in, rank). up: (tiles, rank, out)."""

    tiles: Tiles
    down: torch.Tensor
    up: torch.Tensor
    scaling: Scaling

    def add(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return `y` (rows, tokens, out) plus each row's product; `x` is (rows, tokens, in). `y` may be written."""
        tiles = self.tiles
        count, tokens = len(tiles.slots), x.shape[1]
        taken = x if tiles.gather is None else x.index_select(0, tiles.gather)
        taken = taken.reshape(count, tiles.height * tokens, x.shape[2])
        down = torch.bmm(taken.to(self.down.dtype), self.down)
        alpha = 1.0
        if isinstance(self.scaling, torch.Tensor):
            down = (down * self.scaling).to(down.dtype)
        else:
            alpha = self.scaling
        if tiles.gather is None and y.is_contiguous() and y.dtype == down.dtype == self.up.dtype:
            y.view(count, -1, y.shape[2]).baddbmm_(down, self.up, alpha=alpha)
            return y
        product = torch.bmm(down, self.up).view(count * tiles.height, tokens, y.shape[2])
        if tiles.places is not None:
            product = product.index_select(0, tiles.places)
        return _add(y, tiles.rows, product, alpha)


@dataclass(frozen=True)
class Segments:
    """The weights as they are, and the rows of each adapter."""

    table: RowTable
    weights: Weights

    def add(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return `y` (rows, tokens, out) plus each row's product; `x` is (rows, tokens, in). `y` may be written."""
        weights = self.weights
        taken = x.index_select(0, self.table.order).reshape(-1, x.shape[2]).to(weights.downs[0].dtype)
        products = []
        start = 0
        for rows, down, up, scaling in zip(self.table.rows, weights.downs, weights.ups, weights.scalings):
            end = start + len(rows) * x.shape[1]
            product = torch.nn.functional.linear(torch.nn.functional.linear(taken[start:end], down), up)
            # What is recorded for a backward may be held by others: selective checkpoints keep products as they are.
            products.append(product * scaling if torch.is_grad_enabled() else product.mul_(scaling))
            start = end
        return _add(y, self.table.order, torch.cat(products).view(-1, *y.shape[1:]), 1.0)


def _add(y: torch.Tensor, rows: torch.Tensor, product: torch.Tensor, alpha: float) -> torch.Tensor:
    """Add `alpha * product` to the rows of `y` in place; it is rounded once, as in the layer's own forward."""
    if y.dtype == product.dtype:
        return y.index_add_(0, rows, product, alpha=alpha)
    return y.index_copy_(0, rows, (y.index_select(0, rows) + product * alpha).to(y.dtype))


def pays_to_copy(weights: Weights, tokens: float) -> bool:
    """Whether copying the weights side by side costs less than one product after the other.

    Args:
        tokens: how many tokens an adapter has on average.
    """
    each = weights.downs[0].numel() + weights.ups[0].numel()
    return len(weights.downs) > 1 and each <= COPIED + COPIED_PER_TOKEN * tokens


def bank_in_place(weights: Weights, table: RowTable, tokens: int) -> Optional[Bank]:
    """Return the adapters' own memory as a bank for rows of `tokens` tokens.

    None where their weights do not lie side by side in it, or reading them so would cost more than copies.
    """
    down = side_by_side(weights.downs)
    up = None if down is None else side_by_side(weights.ups)
    if down is None or up is None:
        return None
    tiles = table.tiles_in_place(tokens)
    if tiles is None:
        return None
    return Bank(tiles, down.transpose(1, 2), up.transpose(1, 2), _scaling(weights, tiles, down))


def bank_of(weights: Weights, tiles: Tiles, scratch: Optional[Scratch] = None) -> Bank:
    """Return copies of the weights, one for each tile: in `scratch` for this call, else laid out for many calls."""
    downs = [weights.downs[slot] for slot in tiles.slots]
    if scratch is None:
        down = torch.stack(downs).transpose(1, 2)
        up = torch.stack([weights.ups[slot].t() for slot in tiles.slots])
    else:
        down = scratch.stacked(downs, "down").transpose(1, 2)
        up = scratch.stacked([weights.ups[slot] for slot in tiles.slots], "up").transpose(1, 2)
    return Bank(tiles, down, up, _scaling(weights, tiles, down))


class Scratch:
    """Memory that the layers of one call use one after the other: fresh pages cost more than what is copied there."""

    def __init__(self) -> None:
        self._memory: Dict[Any, torch.Tensor] = {}

    def stacked(self, tensors: Sequence[torch.Tensor], use: str) -> torch.Tensor:
        """Return the tensors side by side, until this is called again for the same `use`."""
        if torch.is_grad_enabled():  # a graph may keep it
            return torch.stack(list(tensors))
        first = tensors[0]
        key = (use, first.device, first.dtype, torch.is_inference_mode_enabled())
        size = len(tensors) * first.numel()
        memory = self._memory.get(key)
        if memory is None or memory.numel() < size:
            memory = self._memory[key] = torch.empty(size, dtype=first.dtype, device=first.device)
        shape = (len(tensors), *first.shape)
        return torch.stack(list(tensors), out=memory[:size].view(shape))


def _scaling(weights: Weights, tiles: Tiles, like: torch.Tensor) -> Scaling:
    values = [weights.scalings[slot] for slot in tiles.slots]
    if len(set(values)) == 1:
        return values[0]
    # Not in half precision, which would round the scalings.
    dtype = torch.float64 if like.dtype is torch.float64 else torch.float32
    return torch.tensor(values, dtype=dtype, device=like.device).view(-1, 1, 1)
