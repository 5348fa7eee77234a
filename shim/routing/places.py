"""Whether an output that has no row for each sample holds the samples where its caller looks for them.

Where structure alone decides, every sample has the same share of an output, and stands in its own place: along one
dimension, in blocks, in tiles. Where an input holds the samples packed, an output as long, or shorter or longer by a
whole factor (patches merged by fours), has them where the input has them. Where lengths do not tell, or data decides
(masks, lengths that Python reads), shares differ, and only the order of the samples can be held against the inputs'.
"""

from __future__ import annotations

from typing import Iterator, List, Sequence

import torch

from shim.routing.owners import CONSTANT


def in_even_places(owner: torch.Tensor, order: torch.Tensor) -> bool:
    """Whether all samples have equal shares of an output, each in its place; what depends on none may stand anywhere.

    Args:
        owner: of each element of the output, which has some: 0 for none, 1.. for a sample.
        order: the samples, from 1, as the batch has them.
    """
    lines = [owner.movedim(dim, 0).reshape(size, -1) for dim, size in enumerate(owner.shape)]
    lines.append(_along_varying(owner).reshape(-1, 1))
    return any(_is_even(line, order) for line in lines)


def in_order(owner: torch.Tensor, order: torch.Tensor, packed: Sequence[torch.Tensor]) -> bool:
    """Whether the samples of an output, in shares of any size, follow each other as in the batch or as in an input.

    A dimension as long as the batch is taken for one entry a sample, one as long as an input for that input's entries,
    and one that goes into the longest input, or that into it, for so many of its entries; to agree with one is enough.

    Args:
        owner, order: as `in_even_places` has them.
        packed: the owners of each index of the inputs that are not one entry a row.
    """
    flat = _along_varying(owner).reshape(-1)
    several = [line for line in packed if len(set(_runs(line))) > 1]
    longest = max(several, key=len, default=order)  # of images the patches, say, and not the sizes
    for line in [*_lines(owner, len(order)), flat]:
        size = len(line)
        known = [other for other in (*several, order) if len(other) == size]
        known += [longest] if several and (size % len(longest) == 0 or len(longest) % size == 0) else []
        agrees = any(_agree(line, other) for other in known) or any(map(line.equal, packed))
        if known and bool((line != line[0]).any()) and not agrees:
            return False
    found = _runs(flat)
    return _repeats_one_order(found) or any(found == _runs(line) for line in (order, *packed))


def _is_even(line: torch.Tensor, order: torch.Tensor) -> bool:
    """Whether `order` lies along the first dimension of `line`: in blocks of any size, and those any times over."""
    size, count = len(line), len(order)
    per, rest = divmod(size, count)
    samples = line.amax(1)
    if rest or not _fits(line, samples.view(-1, 1)):
        return False
    blocks = [block for block in range(1, per + 1) if per % block == 0]
    return any(_fits(samples, order.repeat_interleave(block).repeat(per // block)) for block in blocks)


def _fits(owner: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool(((owner == CONSTANT) | (owner == expected)).all())


def _lines(owner: torch.Tensor, count: int) -> Iterator[torch.Tensor]:
    """Give the owners along each dimension that is as long as the batch, or whose entries have one owner each."""
    for dim, size in enumerate(owner.shape):
        entries = owner.movedim(dim, 0).reshape(size, -1)
        line = entries.amax(1)
        if size == count or _fits(entries, line.view(-1, 1)):
            yield line


def _agree(line: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two lines have one owner in each place, of which the longer one's has several of its entries."""
    short, long = sorted((line, other), key=len)
    short, long = short.view(-1, 1), long.view(len(short), -1)
    return bool(((short == CONSTANT) | (long == CONSTANT) | (short == long)).all())


def _along_varying(owner: torch.Tensor) -> torch.Tensor:
    """Return the owners without the dimensions along which no two elements have different ones, constants aside."""
    for dim in reversed(range(owner.dim())):
        most = owner.amax(dim, keepdim=True)
        if _fits(owner, most):
            owner = most
    return owner


def _runs(line: torch.Tensor) -> List[int]:
    """Return the samples of a line one after the other, each named once where it stands several times running."""
    return [int(sample) for sample in torch.unique_consecutive(line[line > CONSTANT])]


def _repeats_one_order(found: Sequence[int]) -> bool:
    """Whether samples come in ascending order, and the same ones again as often as they like."""
    period = next((place for place in range(1, len(found)) if found[place] <= found[place - 1]), len(found))
    return not found or list(found) == list(found[:period]) * (len(found) // period)
