"""B(A(x)) * scaling of many LoRA adapters in two Triton launches: `shrink` x to the ranks, `expand` onto y.

After Punica's SGMV (https://arxiv.org/abs/2310.18547) and S-LoRA's kernels for mixed ranks
(https://arxiv.org/abs/2311.03285). A program computes one tile, which holds rows of one adapter only: rows are
selected, and what pads a tile is loaded as 0 and never stored. There are no atomics: `shrink` writes the sum of each
share of the width apart, `expand` adds the shares in their order.

Importing this imports triton; with TRITON_INTERPRET=1 in the environment then, the kernels run on the CPU.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Of one adapter in a layer's table of weights: where its A and its B are, its rank, the bits of its scaling.
FIELDS = tl.constexpr(4)


@triton.jit
def shrink(
    x,  # rows at `x_row`, their tokens at `x_token`, features side by side
    h,  # (SHARES, places, most ranks), float32
    order,  # the row at each place
    tiles,  # (3, tiles): the adapter of each, or -1; its first place; the end of its adapter's places
    weights,  # (adapters, FIELDS)
    tokens,  # of a row: a row's places are side by side
    width,
    x_row,
    x_token,
    h_share,
    h_place,
    DTYPE: tl.constexpr,  # of the weights
    DOT: tl.constexpr,  # what is multiplied; DTYPE, but float32 where the interpreter cannot
    ALIGNED: tl.constexpr,  # whether all weights begin at a multiple of 16 bytes
    SHARES: tl.constexpr,
    PLACES: tl.constexpr,
    RANKS: tl.constexpr,
    INNER: tl.constexpr,
):
    """Write x @ A.T of each place; the program's tile, block of ranks and share of the width are its ids."""
    tile, tile_count = tl.program_id(0), tl.num_programs(0)
    adapter = tl.load(tiles + tile)
    if adapter < 0:
        return
    weight = weights + adapter * FIELDS
    rank = tl.load(weight + 2).to(tl.int32)
    if tl.program_id(1) * RANKS >= rank:
        return
    down = tl.load(weight).to(tl.pointer_type(DTYPE))
    if ALIGNED:
        down = tl.multiple_of(down, 16)
    places = tl.load(tiles + tile_count + tile) + tl.arange(0, PLACES)
    is_place = places < tl.load(tiles + 2 * tile_count + tile)
    rows = tl.load(order + places // tokens, mask=is_place, other=0)
    x_at = x + (rows * x_row + places % tokens * x_token)[:, None]
    ranks = tl.program_id(1) * RANKS + tl.arange(0, RANKS)
    is_rank = ranks < rank
    share = tl.cdiv(tl.cdiv(width, INNER), SHARES) * INNER
    begin = tl.program_id(2) * share
    total = tl.zeros((PLACES, RANKS), tl.float32)
    for start in range(begin, min(begin + share, width), INNER):
        inner = start + tl.arange(0, INNER)
        is_inner = inner < width
        some = tl.load(x_at + inner[None, :], mask=is_place[:, None] & is_inner[None, :], other=0.0)
        to_at = down + ranks[None, :] * width + inner[:, None]
        to = tl.load(to_at, mask=is_rank[None, :] & is_inner[:, None], other=0.0)
        total = tl.dot(some.to(DTYPE).to(DOT), to.to(DOT), total, input_precision="ieee")
    at = h + tl.program_id(2).to(tl.int64) * h_share + places[:, None] * h_place + ranks[None, :]
    tl.store(at, total, mask=is_place[:, None] & is_rank[None, :])


@triton.jit
def expand(
    h,
    y,  # rows at `y_row`, their tokens at `y_token`, features side by side
    order,
    tiles,
    weights,
    tokens,
    width,
    y_row,
    y_token,
    h_share,
    h_place,
    DTYPE: tl.constexpr,
    DOT: tl.constexpr,
    ALIGNED: tl.constexpr,
    RANK_STEP: tl.constexpr,  # what every rank is a multiple of
    SHARES: tl.constexpr,
    PLACES: tl.constexpr,
    RANKS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Add h @ B.T * scaling to each place's y, rounded once; the program's tile and block of columns are its ids."""
    tile, tile_count = tl.program_id(0), tl.num_programs(0)
    adapter = tl.load(tiles + tile)
    if adapter < 0:
        return
    weight = weights + adapter * FIELDS
    up = tl.load(weight + 1).to(tl.pointer_type(DTYPE))
    if ALIGNED:
        up = tl.multiple_of(up, 16)
    rank = tl.multiple_of(tl.load(weight + 2).to(tl.int32), RANK_STEP)
    scaling = tl.load(weight + 3).to(tl.int32).to(tl.float32, bitcast=True)
    places = tl.load(tiles + tile_count + tile) + tl.arange(0, PLACES)
    is_place = places < tl.load(tiles + 2 * tile_count + tile)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    is_column = columns < width
    total = tl.zeros((PLACES, COLUMNS), tl.float32)
    for start in range(0, rank, RANKS):
        ranks = start + tl.arange(0, RANKS)
        is_rank = ranks < rank
        at = h + places[:, None] * h_place + ranks[None, :]
        some = tl.zeros((PLACES, RANKS), tl.float32)
        for _ in tl.static_range(SHARES):
            some += tl.load(at, mask=is_place[:, None] & is_rank[None, :], other=0.0)
            at += h_share
        to_at = up + columns[None, :] * rank + ranks[:, None]
        to = tl.load(to_at, mask=is_column[None, :] & is_rank[:, None], other=0.0)
        # Rounded between the two products, as the layer's own modules do.
        total = tl.dot(some.to(DTYPE).to(DOT), to.to(DOT), total, input_precision="ieee")
    rows = tl.load(order + places // tokens, mask=is_place, other=0)
    y_at = y + (rows * y_row + places % tokens * y_token)[:, None] + columns[None, :]
    is_y = is_place[:, None] & is_column[None, :]
    value = tl.load(y_at, mask=is_y, other=0.0).to(tl.float32) + total * scaling
    tl.store(y_at, value.to(y.dtype.element_ty), mask=is_y)
