"""The rows of one rule by adapter, as tensors made once and shared by all layers of a call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import torch

# A kept copy of a batch's weights may have this many times as many tiles as adapters.
MOST_TILES_PER_ADAPTER = 2
# What a tile's weights cost to copy and read, in rows of one token: on CPU, seven adapters of rank 8 to 64 at width 512
# and 1024. Between 4 and 16 the choices are the same for batches of up to 64 rows.
WEIGHTS_PER_TILE = 8
# The same of weights that are read where they are.
WEIGHTS_IN_PLACE = 4


@dataclass(frozen=True)
class Tiles:
    """Rows cut into tiles of one height, each of one adapter's rows.

    A tile that its adapter's rows do not fill repeats the last of them.

    height: rows of a tile. slots: the adapter of each tile, by its position in the table. gather: the row of each
    place in the tiles; None where the tiles are all rows in their order. rows: the rows that have an adapter.
    places: where each of `rows` is in the tiles, None where no place is a repetition.
    """

    height: int
    slots: Tuple[int, ...]
    gather: Optional[torch.Tensor]
    rows: torch.Tensor
    places: Optional[torch.Tensor]


class RowTable:
    """The rows of each adapter along the row dimension of a layer's input; rows of the base are in none.

    adapters: their names. rows: the rows of each, ascending. size: the number of all rows.
    """

    def __init__(self, rows: Mapping[str, Sequence[int]], size: int, device: Any) -> None:
        self.adapters = tuple(rows)
        self.rows = tuple(tuple(rows[name]) for name in self.adapters)
        self.size, self.device = size, device
        self._cuts: Dict[int, Tiles] = {}
        self._tiles: Dict[Tuple[int, bool], Tiles] = {}
        self._parts: Dict[Tuple[int, ...], RowTable] = {}
        self._order: Optional[torch.Tensor] = None
        self._indices: Optional[List[torch.Tensor]] = None

    def of(self, slots: Sequence[int]) -> RowTable:
        """Return the table of the adapters at `slots` alone."""
        key = tuple(slots)
        if len(key) == len(self.adapters):
            return self
        if key not in self._parts:
            part = {self.adapters[slot]: self.rows[slot] for slot in key}
            self._parts[key] = RowTable(part, self.size, self.device)
        return self._parts[key]

    @property
    def tallest(self) -> int:
        """The most rows that an adapter has."""
        return max(map(len, self.rows))

    @property
    def order(self) -> torch.Tensor:
        """All rows that have an adapter, those of one adapter together."""
        if self._order is None:
            self._order = self._tensor([row for rows in self.rows for row in rows])
        return self._order

    @property
    def indices(self) -> List[torch.Tensor]:
        """The rows of each adapter."""
        if self._indices is None:
            self._indices = [self._tensor(rows) for rows in self.rows]
        return self._indices

    def tiles(self, tokens: int, *, kept: bool = False) -> Tiles:
        """Return the rows in tiles, of the height that costs least for rows of `tokens` tokens.

        Args:
            kept: whether the tiles' weights are kept, so that there may be few more tiles than adapters.
        """
        key = (tokens, kept)
        if key not in self._tiles:
            height = self._height(tokens, len(self.adapters) * MOST_TILES_PER_ADAPTER if kept else None)
            self._tiles[key] = self._of_height(height)
        return self._tiles[key]

    def tiles_in_place(self, tokens: int) -> Optional[Tiles]:
        """Return the rows in one tile for each adapter, for weights that need no copy.

        None where the rows that fill up the tiles cost more than copies would.
        """
        best, height = self.tiles(tokens), self.tallest
        if best.height == height:
            return best
        if len(self.rows) * (WEIGHTS_IN_PLACE + height * tokens) > self._cost(best.height, tokens):
            return None
        return self._of_height(height)

    def _of_height(self, height: int) -> Tiles:
        if height not in self._cuts:
            self._cuts[height] = self._cut(height)
        return self._cuts[height]

    def _height(self, tokens: int, most: Optional[int]) -> int:
        heights = {1 << power for power in range(self.tallest.bit_length())} | {self.tallest}
        allowed = [height for height in heights if most is None or self._count(height) <= most]
        return min(sorted(allowed), key=lambda height: self._cost(height, tokens))

    def _count(self, height: int) -> int:
        return sum(-(-len(rows) // height) for rows in self.rows)

    def _cost(self, height: int, tokens: int) -> int:
        return self._count(height) * (WEIGHTS_PER_TILE + height * tokens)

    def _cut(self, height: int) -> Tiles:
        slots: List[int] = []
        gather: List[int] = []
        places: List[int] = []
        for slot, rows in enumerate(self.rows):
            for start in range(0, len(rows), height):
                tile = rows[start : start + height]
                places += range(len(gather), len(gather) + len(tile))
                gather += [*tile, *[tile[-1]] * (height - len(tile))]
                slots.append(slot)
        in_order = gather == list(range(self.size))
        return Tiles(
            height,
            tuple(slots),
            None if in_order else self._tensor(gather),
            self.order,
            None if len(places) == len(gather) else self._tensor(places),
        )

    def _tensor(self, values: Sequence[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.device)
