"""One LoRA layer, its base product once for all rows, each row's own adapter added to it."""

from __future__ import annotations

from typing import Any, Dict, Iterable, Optional, Sequence, Tuple, Union

import torch
from torch.nn.modules import module as torch_module

from shim.kernels.lora import KEPT_UP_TO, Bank, Scratch, Segments, bank_in_place, bank_of, pays_to_copy
from shim.kernels.tables import RowTable
from shim.kernels.triton_lora import Fused, fused, serves
from shim.kernels.weights import Weights, has_plain_dropout, weights_by_rank

Product = Union[Bank, Segments, Fused]

# Classes of torch whose forward makes its output anew, and that forward as it was when this was imported: `Identity`,
# say, hands out its input, and whatever is not known may hold what it returns.
_MAKES_ANEW = {kind: kind.forward for kind in (torch.nn.Linear, torch.nn.Embedding)}


class Memory:
    """What the layers of one call share.

    banks: the weights that the calls of one generate keep for each other, by layer and table; None to keep nothing.
    fused: likewise where the Triton kernels find them.
    """

    def __init__(self, *, keeps_weights: bool) -> None:
        self.banks: Optional[Dict[Tuple[int, int], Sequence[Bank]]] = {} if keeps_weights else None
        self.fused: Dict[Tuple[int, int], Optional[Fused]] = {}
        self.scratch = Scratch()


def run_linear(
    layer: Any, x: torch.Tensor, dim: Optional[int], table: RowTable, memory: Memory, training: bool = False
) -> Any:
    """Return the output of a `lora.Linear` for `x` (..., in), each row of `table` along `dim` under its adapter.

    Differentiable wherever gradients are enabled, to each adapter's own weights.

    Args:
        dim: the dimension of the rows; None where all dimensions but the last count as one.
        memory: what the layers of a call share.
        training: whether adapters may drop out.
    """
    dropped = _dropout_of_all(layer, table.adapters) if training else 0.0
    if dropped is None or _hooks_of_all_modules():
        return run_modules(layer, x, dim, table)
    by_triton = _fused(layer, x, table, memory) if not training and serves(x) else None
    products: Optional[Iterable[Product]] = [by_triton] if by_triton is not None else None
    if products is None:
        products = _products(layer, x.numel() // (table.size * x.shape[-1]), table, memory)
    if products is None:
        return run_modules(layer, x, dim, table)
    y = _base_output(layer.base_layer, x)
    if dropped:
        x = torch.nn.functional.dropout(x.to(layer.lora_A[table.adapters[0]].weight.dtype), dropped)
    if dim is None:
        rows, out = x.reshape(-1, 1, x.shape[-1]), y.reshape(-1, 1, y.shape[-1])
    elif dim == 0 and x.dim() == 3:  # in decoding each view counts
        rows, out = x, y
    else:
        rows, out = _flat(x.movedim(dim, 0)), _flat(y.movedim(dim, 0))
    for product in products:
        out = product.add(rows, out)
    if not dim:
        return out.view(y.shape)
    return out.view(y.movedim(dim, 0).shape).movedim(0, dim).contiguous()


def _fused(layer: Any, x: torch.Tensor, table: RowTable, memory: Memory) -> Optional[Fused]:
    """Return the Triton launches for `table`, looked up once in a generate."""
    if memory.banks is None:
        return fused(layer, x, table)
    key = (id(layer), id(table))
    if key not in memory.fused:
        memory.fused[key] = fused(layer, x, table, keeps_weights=True)
    return memory.fused[key]


def _products(layer: Any, tokens: int, table: RowTable, memory: Memory) -> Optional[Iterable[Product]]:
    """Return what to add to the rows of `table`, of `tokens` tokens each; None where modules must be called."""
    # With gradients nothing is kept: a kept copy belongs to one graph, and is stale after the optimizer's next step.
    kept = tokens <= KEPT_UP_TO and len(table.adapters) > 1 and not torch.is_grad_enabled()
    banks = memory.banks if kept else None
    key = (id(layer), id(table))
    if banks is not None and key in banks:
        return banks[key]
    found = weights_by_rank(layer, table.adapters)
    if found is None:
        return None
    if banks is None:
        # One at a time: the next one takes the same memory.
        return (_fresh(weights, table.of(slots), tokens, memory.scratch) for slots, weights in found)
    banks[key] = [_kept(weights, table.of(slots), tokens) for slots, weights in found]
    return banks[key]


def _kept(weights: Weights, table: RowTable, tokens: int) -> Bank:
    in_place = bank_in_place(weights, table, tokens)
    return in_place or bank_of(weights, table.tiles(tokens, kept=True))


def _fresh(weights: Weights, table: RowTable, tokens: int, scratch: Scratch) -> Product:
    in_place = bank_in_place(weights, table, tokens)
    if in_place is not None:
        return in_place
    if pays_to_copy(weights, tokens * sum(map(len, table.rows)) / len(table.rows)):
        return bank_of(weights, table.tiles(tokens), scratch)
    return Segments(table, weights)


def _flat(value: torch.Tensor) -> torch.Tensor:
    return value.reshape(value.shape[0], -1, value.shape[-1])


def run_modules(layer: Any, x: torch.Tensor, dim: Optional[int], table: RowTable) -> Any:
    """Return the output of a LoRA layer of any kind, its adapters' own modules called one after the other.

    Args:
        x: (..., in) for a linear layer, (...) for an embedding, (rows, ...) for a convolution.
        dim: the dimension of the rows; None where all that are not features count as one.
    """
    y = _base_output(layer.base_layer, x)
    shape = y.shape
    if dim is None:
        features = y.dim() - 1
        x, y, dim = x.reshape(-1, *x.shape[features:]), y.reshape(-1, shape[-1]), 0
    for adapter, rows in zip(table.adapters, table.indices):
        product = _product(layer, x.index_select(dim, rows), adapter)
        # Added before it is rounded, as the layer's own forward does.
        y.index_copy_(dim, rows, (y.index_select(dim, rows) + product).to(y.dtype))
    return y.reshape(shape)


def _product(layer: Any, x: torch.Tensor, adapter: str) -> Any:
    if adapter in getattr(layer, "lora_embedding_A", ()):
        down, up = layer.lora_embedding_A[adapter], layer.lora_embedding_B[adapter]
        return (layer._embed(x, down.T) @ up.T) * layer.scaling[adapter]
    down, up = layer.lora_A[adapter], layer.lora_B[adapter]
    return up(down(layer.lora_dropout[adapter](x.to(down.weight.dtype)))) * layer.scaling[adapter]


def _base_output(base: Any, x: torch.Tensor) -> torch.Tensor:
    """Return the output of a base layer, to be added to in place: a copy where anybody else may hold it.

    A graph does, and a hook may: one that captures, returns what it stored, or gives back the input.
    """
    copies = torch.is_grad_enabled() or not _makes_anew(base)  # asked first: a hook may take itself off
    y: torch.Tensor = base(x)
    return y.clone() if copies else y


def _makes_anew(base: Any) -> bool:
    """Whether a call of `base` runs a forward that is known to make its output anew, and nothing else."""
    state = vars(base)
    if _MAKES_ANEW.get(type(base)) is not type(base).forward or state["_forward_hooks"] or state["_forward_pre_hooks"]:
        return False
    return not _hooks_of_all_modules() and "forward" not in state and state.get("_compiled_call_impl") is None


def _hooks_of_all_modules() -> Any:
    """Return the hooks that torch calls around every module, empty where there is none."""
    return torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks


def _dropout_of_all(layer: Any, adapters: Sequence[str]) -> Optional[float]:
    """Return the probability with which all `adapters` drop out; None where they differ, or drop in another way."""
    if not has_plain_dropout(layer, adapters):
        return None
    modules = [layer.lora_dropout[adapter] for adapter in adapters]
    found = {float(one.p) if one.training and type(one) is torch.nn.Dropout else 0.0 for one in modules}
    return found.pop() if len(found) == 1 else None
