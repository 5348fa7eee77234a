"""One memory for the weights of all adapters in a layer, of which the adapters' own parameters are views."""

from __future__ import annotations

from typing import Any, Dict, Iterator, Sequence, Tuple

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from shim.errors import RefusedError
from shim.kernels.weights import side_by_side, weights_by_rank
from shim.modules import adapter_layers
from shim.routing.storage import address, storage_of

# Memory that `pack` made: it may take its parameters out again. While a weak reference is held, the address is not
# given to other memory.
_MADE: Dict[int, StorageWeakRef] = {}


@torch.no_grad()
def pack(model: Any) -> int:
    """See `shim.pack`."""
    moves = [group for name, layer in adapter_layers(model) for group in _groups(name, layer)]
    for name, tensors in moves:  # all are asked before one is moved
        for tensor in tensors:
            _check_movable(name, tensor)
    for key in [key for key, storage in _MADE.items() if storage.expired()]:
        del _MADE[key]
    for _, tensors in moves:
        together = torch.stack([tensor.detach() for tensor in tensors])
        _MADE[address(together)] = StorageWeakRef(storage_of(together))
        for tensor, place in zip(tensors, together):
            tensor.data = place
    return sum(tensor.numel() * tensor.element_size() for _, tensors in moves for tensor in tensors)


def _groups(name: str, layer: Any) -> Iterator[Tuple[str, Sequence[torch.Tensor]]]:
    """Yield (name of the layer, weights to be laid side by side), in the order in which the kernels take them."""
    adapters = sorted(getattr(layer, "lora_A", ()))
    found = (weights_by_rank(layer, adapters) if adapters else None) or ()
    for _, weights in found:
        for tensors in (weights.downs, weights.ups):
            one_device = len({tensor.device for tensor in tensors if not tensor.is_meta}) < 2
            if len(tensors) > 1 and one_device and side_by_side(tensors) is None:
                yield name, tensors


def _check_movable(name: str, tensor: torch.Tensor) -> None:
    way_out = "Pack the model before that is done to it, or leave it: mixed batches are as right without"
    if tensor.is_meta:
        raise RefusedError(f"pack would move a weight of {name} that is on the meta device: offloaded. {way_out}")
    if not tensor.is_cuda and tensor.is_shared():
        raise RefusedError(f"pack would move a weight of {name} out of the memory it shares with processes. {way_out}")
    storage = storage_of(tensor)
    if storage.nbytes() != tensor.numel() * tensor.element_size() and address(tensor) not in _MADE:
        raise RefusedError(
            f"pack would move a weight of {name}, of {tensor.numel() * tensor.element_size()} bytes, out of memory of "
            f"{storage.nbytes()} bytes that somebody else laid out (flat parameters, say). {way_out}"
        )
