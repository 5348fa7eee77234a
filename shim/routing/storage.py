"""Owner ids beside memory: one id per storage element, so that views, strides and aliases need no rule."""

from __future__ import annotations

from typing import Any, Dict, List

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from shim.routing.owners import CONSTANT, MIXED, Ids, Lattice


class _Block:
    """What is known of one storage: an id per element of `itemsize` bytes, and whence they came."""

    def __init__(self, storage: Any, itemsize: int, filled: bool) -> None:
        # While a weak reference is held the address of a freed storage is not given to another.
        self.alive = StorageWeakRef(storage)
        self.itemsize = itemsize
        self.device = storage.device
        make = torch.empty if filled else torch.zeros
        self.ids = make(storage.nbytes() // itemsize, dtype=torch.int32, device=self.device)
        self.tainted = False
        self.by_data = 0
        self.mixed = False
        self.packed = False
        self.compared = False


class OwnerStore:
    """The owner ids of every storage that a trace has written to.

    A storage that is not in it holds constants: weights, and what was made of them alone.
    """

    def __init__(self, lattice: Lattice) -> None:
        self._lattice = lattice
        self._blocks: Dict[int, _Block] = {}

    def knows(self, tensor: torch.Tensor) -> bool:
        """Whether any element may have an owner."""
        return address(tensor) in self._blocks

    def ids(self, tensor: torch.Tensor) -> Ids:
        """Return the ids of `tensor`, a view on the store, or None where all are constant."""
        block = self._blocks.get(address(tensor))
        if block is None:
            return None
        self._in_units_of(block, tensor)
        return block.ids.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())

    def write(
        self,
        tensor: torch.Tensor,
        ids: Ids,
        *,
        tainted: bool = False,
        by_data: int = 0,
        packed: bool = False,
        compared: bool = False,
    ) -> None:
        """Set the ids of `tensor`'s elements, and mark its storage."""
        key = address(tensor)
        block = self._blocks.get(key)
        if block is None:
            if ids is None and not tainted and not compared:
                return
            storage = storage_of(tensor)
            filled = ids is not None and tensor.is_contiguous() and storage.nbytes() == _bytes(tensor)
            block = self._blocks[key] = _Block(storage, tensor.element_size(), filled)
        self._in_units_of(block, tensor)
        self._set(block, tensor, ids, tainted)
        block.tainted |= tainted
        block.by_data = max(block.by_data, by_data)
        block.packed |= packed
        block.compared |= compared
        block.mixed = block.mixed or (tainted and holds_mixed(ids))

    def tainted(self, tensor: torch.Tensor) -> bool:
        """Whether an adapted layer's output has flowed into the storage of `tensor`."""
        block = self._blocks.get(address(tensor))
        return block is not None and block.tainted

    def by_data(self, tensor: torch.Tensor) -> int:
        """Who decided an id in the storage of `tensor` through a data-dependent index; 0 where structure did."""
        block = self._blocks.get(address(tensor))
        return 0 if block is None else block.by_data

    def packed(self, tensor: torch.Tensor) -> bool:
        """Whether the storage of `tensor` holds rows that data has put together."""
        block = self._blocks.get(address(tensor))
        return block is not None and block.packed

    def compared(self, tensor: torch.Tensor) -> bool:
        """Whether the storage of `tensor` holds what says which of some samples is the greater, or the greatest."""
        block = self._blocks.get(address(tensor))
        return block is not None and block.compared

    def mixed(self, tensor: torch.Tensor) -> bool:
        """Whether a value that depends on several samples was ever written to the storage of `tensor`."""
        block = self._blocks.get(address(tensor))
        return block is not None and block.mixed

    def sweep(self) -> None:
        """Forget storages that are gone."""
        gone: List[int] = [key for key, block in self._blocks.items() if block.alive.expired()]
        for key in gone:
            del self._blocks[key]

    def _set(self, block: _Block, tensor: torch.Tensor, ids: Ids, tainted: bool) -> None:
        view = block.ids.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
        if ids is not None and address(ids) == address(view):
            if ids.storage_offset() == view.storage_offset() and ids.stride() == view.stride():
                return  # every element keeps its owner
            ids = ids.clone()
        if overlaps_itself(tensor):
            self._write_overlapping(block, tensor, ids, tainted)
        elif ids is None:
            view.fill_(CONSTANT)
        elif view.numel():
            view.copy_(ids)

    def _write_overlapping(self, block: _Block, tensor: torch.Tensor, ids: Ids, tainted: bool) -> None:
        """Set ids where several elements of `tensor` share memory: any of them may have been written last."""
        number = torch.arange(block.ids.numel(), device=block.device)
        places = number.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
        block.ids[places] = CONSTANT
        if ids is None:
            return
        before = self._lattice.tainted
        self._lattice.tainted = tainted or block.tainted
        block.ids = self._lattice.spread(block.ids, places, ids.expand(tensor.shape))
        self._lattice.tainted = before

    def _in_units_of(self, block: _Block, tensor: torch.Tensor) -> None:
        """Make the ids of `block` count elements of `tensor`'s size: bytes seen as numbers, and back."""
        size = tensor.element_size()
        if block.itemsize > size:
            block.ids = block.ids.repeat_interleave(block.itemsize // size)
        elif block.itemsize < size:
            per = size // block.itemsize
            whole = block.ids[: block.ids.numel() // per * per].view(-1, per)
            before = self._lattice.tainted
            self._lattice.tainted = block.tainted
            block.ids = self._lattice.reduce(whole, [1]).reshape(-1).clone()  # type: ignore[union-attr]
            self._lattice.tainted = before
        block.itemsize = size
        # A storage may grow (`resize_`); what is new holds constants until it is written.
        missing = storage_of(tensor).nbytes() // size - block.ids.numel()
        if missing > 0:
            block.ids = torch.cat([block.ids, block.ids.new_zeros(missing)])


def storage_of(tensor: torch.Tensor) -> Any:
    """Return the storage of `tensor` without its type; a trace takes this for no look at its values."""
    with torch._C.DisableTorchFunction():
        # Breakpoint: pytorch/pytorch#91414, torch 2.0: `untyped_storage`.
        if hasattr(tensor, "untyped_storage"):
            return tensor.untyped_storage()
        return tensor.storage().untyped()


def address(tensor: torch.Tensor) -> int:
    """Return the number that stands for `tensor`'s storage while anything refers to it, weakly or not."""
    return int(storage_of(tensor)._cdata)


def holds_mixed(ids: Ids) -> bool:
    """Whether any value depends on several samples."""
    if ids is None or not ids.numel():
        return False
    once = ids[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in ids.stride())]
    return int(once.min()) == MIXED


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def overlaps_itself(tensor: torch.Tensor) -> bool:
    """Whether two elements of `tensor` may be one in memory."""
    if tensor.is_contiguous():
        return False
    span = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape)):
        if size > 1:
            if stride < span:
                return True
            span += (size - 1) * stride
    return False
