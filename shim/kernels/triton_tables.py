"""What the Triton kernels are told in tensors on the device: where the weights are, and which rows a tile holds."""

from __future__ import annotations

import functools
import struct
import threading
from typing import Any, Callable, Dict, List, Optional, Tuple
from weakref import WeakKeyDictionary

import torch

from shim.kernels.tables import RowTable

_LEAST = 16  # adapters in a table

Entry = Tuple[int, int, int, int]
"""Of one adapter in one layer: the addresses of A and B, the rank, the bits of the scaling."""


class _Addresses:
    """A layer's table of the weights of one dtype on one device.

    tables: the last is in use; the others were outgrown, and a CUDA graph may still read them.
    """

    def __init__(self) -> None:
        self.entries: Dict[int, Entry] = {}
        self.tables: List[torch.Tensor] = []


# The row of an adapter in the tables of all layers, by its name. It takes 32 bytes a layer for each name ever used.
_numbers: Dict[str, int] = {}
_addresses: WeakKeyDictionary[Any, Dict[Tuple[torch.device, torch.dtype], _Addresses]] = WeakKeyDictionary()
_places: WeakKeyDictionary[RowTable, Dict[Tuple[int, int], Tuple[torch.Tensor, torch.Tensor]]] = WeakKeyDictionary()
_lock = threading.Lock()


def number(adapter: str) -> int:
    """Return the number that all layers' tables know an adapter of this name by."""
    known = _numbers.get(adapter)
    if known is None:
        with _lock:  # two names must not find the same length
            known = _numbers.setdefault(adapter, len(_numbers))
    return known


def addresses(
    layer: Any, entries: Dict[int, Entry], device: torch.device, dtype: torch.dtype, fit: Callable[[], bool]
) -> Optional[torch.Tensor]:
    """Return the layer's table of weights of `dtype`, (adapters, 4) int64, which holds `entries` by number.

    It is written, and waited for, where an address, a rank or a scaling is another than it was, and stays where it is
    until it is outgrown.

    Args:
        fit: asked before anything is written; None is returned where it says no.
    """
    held = _addresses.setdefault(layer, {}).setdefault((device, dtype), _Addresses())
    if not entries.items() <= held.entries.items():
        if not fit():
            return None
        with _lock:
            known = {**held.entries, **entries}
            rows = [known.get(index, (0, 0, 0, 0)) for index in range(max(known) + 1)]
            if not held.tables or len(rows) > len(held.tables[-1]):
                size = max(_LEAST, 1 << (len(rows) - 1).bit_length())
                held.tables.append(torch.zeros(size, 4, dtype=torch.int64, device=device))
            held.tables[-1][: len(rows)].copy_(torch.tensor(rows, dtype=torch.int64))
            held.entries = known
    return held.tables[-1]


@functools.lru_cache(maxsize=None)
def bits(scaling: float) -> int:
    """Return the bits of `scaling` as float32, as they stand in a table."""
    return int(struct.unpack("i", struct.pack("f", scaling))[0])


def place(table: RowTable, tokens: int, height: int) -> Tuple[torch.Tensor, torch.Tensor]:
    """Return the rows in the order of their adapters, and the tiles; made once for all layers that share `table`."""
    known = _places.setdefault(table, {})
    if (tokens, height) not in known:
        slots = [len(table.adapters)] * table.size
        for slot, rows in enumerate(table.rows):
            for row in rows:
                slots[row] = slot
        told = torch.tensor([*slots, *map(number, table.adapters)], dtype=torch.int64, device=table.device)
        known[tokens, height] = tiles_of(told[: table.size], told[table.size :], tokens, height)
    return known[tokens, height]


def tiles_of(slots: torch.Tensor, numbers: torch.Tensor, tokens: int, height: int) -> Tuple[torch.Tensor, torch.Tensor]:
    """Return (order, tiles) of rows whose adapters are at `slots` of `numbers`, those of the base at `len(numbers)`.

    The shapes hang on those of the arguments only, and nothing is read back: a CUDA graph may hold the call.

    Returns:
        order: (rows,), the row at each place. tiles: (3, tiles): the number of each tile's adapter, or -1 where
        there is no such tile; its first place; where its adapter's places end. A place is a token of a row.
    """
    rows, adapters = slots.shape[0], numbers.shape[0]
    in_order, order = torch.sort(slots, stable=True)
    begins = torch.searchsorted(in_order, torch.arange(adapters + 1, device=slots.device)) * tokens
    counts = (begins[1:] - begins[:-1] + (height - 1)).div(height, rounding_mode="floor")
    ends = counts.cumsum(0)
    most = min(rows * -(-tokens // height), rows * tokens // height + min(rows, adapters))
    tiles = torch.arange(most, device=slots.device)
    slot = torch.searchsorted(ends, tiles, right=True)
    is_tile = slot < adapters
    slot = slot.clamp(max=adapters - 1)
    first = begins[slot] + (tiles - (ends - counts)[slot]) * height
    return order, torch.stack([torch.where(is_tile, numbers[slot], -1), first, begins[slot + 1]])
