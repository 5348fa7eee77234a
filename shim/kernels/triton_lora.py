"""The layer's rows under many adapters in two Triton launches, whatever their number: where they serve, and on what.

The adapters' weights stay where they are. A layer has a small table on the device, of where each adapter's A and B are,
its rank and its scaling; it is made when an adapter first comes by and held, at every call, against the addresses of
the weights themselves, so that nothing can go stale: there is no copy of a value. Copies side by side, as on a CPU,
would be their bytes twice more for every call, and in decoding these bytes are what the product costs.

Blocks. On an H200 (4.3 TB/s by a copy, 790 TFLOP/s bf16, 132 multiprocessors; an H100 has 3.0 TB/s) a 4096 x 4096 layer
under 32 adapters of rank 16 in bf16:
- decoding 32 rows reads 33.5 MB of the base, 7.8 us, and 8.4 MB of adapters, 2.0 us. A multiprocessor's part of the
  bandwidth is 33 KB/us and an A is 131 KB, so that each A is cut into 8 shares: 256 programs of 16 KB. A B is cut by
  its columns: 1024 programs of 4 KB. Tiles are of 16 places, the least that a matrix instruction takes.
- 32 x 512 tokens take 696 us of arithmetic in the base; `shrink` reads 134 MB, 31 us, and `expand` reads and writes
  268 MB, 62 us, whatever the rank up to 64. Tiles are of 64 places, so that an A is read, from the L2 cache, once for
  64 tokens: a quarter of the bytes of x at rank 16. The width is one share, for there are programs enough.
Which of the two holds for a layer call is told by the tokens of one row, never by the number of rows or of adapters. So
the terms of a row's sums and their order are the same whatever else is in the batch; what the kernels are told of other
adapters (the largest rank, the alignment) changes how memory is read. Float32 is multiplied as such (no TF32), outside
of the tensor cores: smaller blocks.
"""

from __future__ import annotations

import functools
import importlib.util
import warnings
from dataclasses import dataclass, replace
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch

from shim.kernels.lora import Segments
from shim.kernels.tables import RowTable
from shim.kernels.triton_tables import addresses, bits, number, place
from shim.kernels.weights import Weights, weights_by_rank

Adapter = Tuple[int, torch.Tensor, torch.Tensor, float]
"""Its position in the table, A, B and scaling."""

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Tests on the CPU set this, with TRITON_INTERPRET=1 in the environment.
INTERPRETED = False
# From this many tokens on, a row alone fills a matrix instruction.
PREFILL = 16


class Blocks(NamedTuple):
    """The sizes of the kernels' blocks, see there; `warps` and `stages` are Triton's."""

    places: int
    ranks: int
    inner: int
    columns: int
    most_shares: int
    warps: int
    stages: int
    least_share: int = 512

    def shares(self, width: int) -> int:
        """Return the number of parts that the width of A is summed in."""
        return max(1, min(self.most_shares, width // self.least_share))


def blocks_for(tokens: int, dtype: torch.dtype) -> Blocks:
    """Return the blocks for rows of `tokens` tokens and weights of `dtype`: nothing else of the batch may matter."""
    if dtype is torch.float32:
        return Blocks(16, 16, 64, 64, 8, 4, 3) if tokens < PREFILL else Blocks(32, 16, 32, 64, 1, 4, 3)
    return Blocks(16, 16, 128, 128, 8, 4, 4) if tokens < PREFILL else Blocks(64, 64, 64, 128, 1, 4, 3)


@dataclass(frozen=True)
class Launch:
    """The adapters of `table`, whose weights are of one dtype, in one layer: ready to be added to its output.

    addresses: the layer's table of weights. most: the largest rank. step: what every rank is a multiple of.
    aligned: whether all weights begin at a multiple of 16 bytes.
    """

    table: RowTable
    addresses: torch.Tensor
    dtype: torch.dtype
    out: int
    most: int
    step: int
    aligned: bool

    def add(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return `y` (rows, tokens, out) plus each row's product, in place; `x` is (rows, tokens, in)."""
        from triton import language

        from shim.kernels import triton_kernels as kernels

        x = x if x.stride(2) == 1 else x.contiguous()
        y = y if y.stride(2) == 1 and 0 not in y.stride() else y.contiguous()
        rows, tokens, width = x.shape
        if not x.numel() or not y.numel():
            return y
        blocks = blocks_for(tokens, self.dtype)
        shares = blocks.shares(width)
        order, tiles = place(self.table, tokens, blocks.places)
        # Ranks are rounded up, so that every row of h begins where 16 bytes may be read at once.
        h = torch.empty((shares, rows * tokens, -(-self.most // 16) * 16), dtype=torch.float32, device=x.device)
        dtype = getattr(language, str(self.dtype).split(".")[1])
        # The interpreter would multiply the bits of bfloat16 as integers; products in float32 are the same.
        dot = language.float32 if INTERPRETED else dtype
        same = {"DTYPE": dtype, "DOT": dot, "ALIGNED": self.aligned, "SHARES": shares, "PLACES": blocks.places}
        same.update(RANKS=blocks.ranks, num_warps=blocks.warps, num_stages=blocks.stages)
        count, at = tiles.shape[1], (h.stride(0), h.stride(1))
        told = (order, tiles, self.addresses, tokens)
        with torch.cuda.device_of(x):
            grid = (count, -(-self.most // blocks.ranks), shares)
            kernels.shrink[grid](x, h, *told, width, *x.stride()[:2], *at, INNER=blocks.inner, **same)
            by_columns = {"RANK_STEP": self.step, "COLUMNS": blocks.columns}
            grid = (count, -(-self.out // blocks.columns), 1)
            kernels.expand[grid](h, y, *told, self.out, *y.stride()[:2], *at, **by_columns, **same)
        return y


@dataclass(frozen=True)
class Fused:
    """All adapters of a layer call.

    found: what `weights_by_rank` gives. kept: the memory of the weights, where it must not go before this does.
    """

    table: RowTable
    found: Sequence[Tuple[Sequence[int], Weights]]
    launches: Sequence[Launch]
    kept: Sequence[torch.Tensor]

    def add(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return `y` (rows, tokens, out) plus each row's product; `x` is (rows, tokens, in). `y` may be written."""
        writes = y.dtype in DTYPES and not (torch.is_grad_enabled() and y.requires_grad)
        if writes and all(launch.out == y.shape[2] for launch in self.launches):
            for launch in self.launches:
                y = launch.add(x, y)
            return y
        for slots, weights in self.found:
            y = Segments(self.table.of(slots), weights).add(x, y)
        return y


def fused(layer: Any, x: torch.Tensor, table: RowTable, *, keeps_weights: bool = False) -> Optional[Fused]:
    """Return the launches for the adapters of `table` in `layer`; None where other kernels must serve.

    Served is an input that `serves` names, where no gradient is asked for; see `weights_by_rank` too.

    Args:
        keeps_weights: whether the result outlives this layer call; it then has a table of its own, and keeps the
            memory that it tells of.
    """
    found = weights_by_rank(layer, table.adapters)
    if found is None:
        return None
    by_dtype: Dict[torch.dtype, List[Adapter]] = {}
    for slots, weights in found:
        adapters = zip(slots, weights.downs, weights.ups, weights.scalings)
        by_dtype.setdefault(weights.downs[0].dtype, []).extend(adapters)
    launches = []
    for adapters_of_one in by_dtype.values():
        adapters_of_one.sort(key=lambda adapter: adapter[0])
        launch = _launch(layer, x, table, adapters_of_one)
        if launch is None:
            return None
        launches.append(launch)
    if not keeps_weights:
        return Fused(table, found, launches, ())
    own = [replace(launch, addresses=launch.addresses.clone()) for launch in launches]
    return Fused(table, found, own, [w.detach() for _, weights in found for w in (*weights.downs, *weights.ups)])


def _launch(layer: Any, x: torch.Tensor, table: RowTable, adapters: Sequence[Adapter]) -> Optional[Launch]:
    _, first, up, _ = adapters[0]
    dtype, width, out = first.dtype, x.shape[-1], up.shape[0]
    if torch.is_grad_enabled() and any(a.requires_grad or b.requires_grad for _, a, b, _ in adapters):
        return None
    if not all(b.dtype is dtype and a.is_contiguous() and b.is_contiguous() for _, a, b, _ in adapters):
        return None

    def fit() -> bool:
        """Whether the weights, seen at these addresses for the first time, are as large as the kernels will think."""
        return dtype in DTYPES and all(
            a.shape[1] == width and b.shape == (out, a.shape[0]) and a.device == x.device == b.device
            for _, a, b, _ in adapters
        )

    entries = {
        number(table.adapters[slot]): (a.data_ptr(), b.data_ptr(), a.shape[0], bits(float(scaling)))
        for slot, a, b, scaling in adapters
    }
    held = addresses(layer, entries, x.device, dtype, fit)
    if held is None or first.shape[1] != width:
        return None
    ranks = {rank for _, _, rank, _ in entries.values()}
    step = 1 if any(rank % 8 for rank in ranks) else 8
    aligned = not any((a | b) % 16 for a, b, _, _ in entries.values())
    return Launch(table.of([slot for slot, *_ in adapters]), held, dtype, out, max(ranks), step, aligned)


# ---- where Triton serves


def serves(x: torch.Tensor) -> bool:
    """Whether the kernels may take `x`.

    That is a float32, bfloat16 or float16 tensor without a gradient on a CUDA device that Triton was seen to work on,
    where nobody watches or changes the operations: no autocast, dispatch mode or trace.
    """
    on_cuda = x.device.type == "cuda"
    if not (on_cuda or INTERPRETED) or type(x) is not torch.Tensor or x.dtype not in DTYPES:
        return False
    if torch.is_grad_enabled() and x.requires_grad:
        return False
    watching = getattr(torch._C, "_len_torch_dispatch_stack", None)  # Breakpoint: torch 2.0
    if watching is None or watching() or torch._C._get_tracing_state() is not None:
        return False
    if on_cuda:
        return not torch.is_autocast_enabled() and works_on(x.device)
    return not torch.is_autocast_enabled("cpu")


@functools.lru_cache(maxsize=None)
def works_on(device: torch.device) -> bool:
    """Whether Triton is there and right on `device`, by a small product; a warning says why where it does not run.

    A container without a C compiler cannot launch what Triton compiled.
    """
    if importlib.util.find_spec("triton") is None:
        return False
    if torch.version.hip is not None or torch.cuda.get_device_capability(device) < (8, 0):
        return False
    try:
        return tries(device)
    except Exception as error:
        warnings.warn(
            f"Triton does not run on {device}, but is installed ({type(error).__name__}: {error}): mixed batches use "
            "batched products of torch there",
            stacklevel=2,
        )
        return False


def tries(device: torch.device) -> bool:
    """Return whether the kernels' products of small integers are what they should be, to the bit."""
    table = RowTable({"": (1,)}, 2, device)
    for dtype, tokens in ((torch.float32, 1), (torch.float32, PREFILL), (torch.bfloat16, 1), (torch.bfloat16, PREFILL)):
        some, down, up = (torch.arange(n, device=device) for n in (tokens * 1040, 3 * 1040, 40 * 3))
        row = some.remainder(131).eq(0).to(dtype).view(tokens, 1040)
        down, up = (down.remainder(3) - 1).to(dtype).view(3, 1040), (up.remainder(7) - 3).to(dtype).view(40, 3)
        held = torch.zeros(number("") + 1, 4, dtype=torch.int64)
        held[-1] = torch.tensor((down.data_ptr(), up.data_ptr(), 3, bits(2.0)))
        launch = Launch(table, held.to(device), dtype, 40, 3, 1, False)
        found = launch.add(torch.stack([row, row]), row.new_zeros(2, tokens, 40))
        expected = row @ down.t() @ up.t() * 2
        if not (torch.equal(found[1], expected) and bool(expected.any())) or bool(found[0].any()):
            return False
    return True
