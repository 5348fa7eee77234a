"""The mixed calls that are made of one batch, and the batches they are made of: each kind catches a kind of guess."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import Any, Dict, Iterator, Tuple

from conformance.models.every.sizes import HEADS
from conformance.scenarios import BASE
from conformance.sweep.adapted import ADAPTERS

ANN, BEN = ADAPTERS
NAMES: Tuple[str, ...] = (ANN, BEN, BASE, ANN, BEN)
"""The adapters of up to five samples, in their order."""


@dataclass(frozen=True)
class Drawing:
    """One batch to draw: its words in `Feed`'s terms, and the calls that are made of its samples."""

    name: str
    samples: int
    length: int
    how: Tuple[Tuple[str, Any], ...] = ()
    calls: Tuple[Tuple[int, ...], ...] = ()
    """Which samples each call has, in which order."""
    names: Tuple[str, ...] = NAMES
    """The adapter of each sample."""

    @property
    def options(self) -> Dict[str, Any]:
        """What the draw is given beyond samples and length."""
        return dict(self.how)


FIRST = Drawing("three samples", 3, 6, calls=((0, 1, 2), (2, 0, 1)))
"""The batch that every stage runs, and its rows in another order."""

SQUARE = Drawing("as many tokens as samples", 3, 3, calls=((0, 1, 2),))
HEADED = Drawing("as many tokens as heads", 5, HEADS, calls=((0, 1), (3, 2, 1, 0), (4, 0, 2, 1, 3), (1,)))
LARGER = Drawing("larger images, longer texts", 3, 9, (("scale", 2),), ((1, 2, 0),))
UNEQUAL = Drawing("unequal images", 3, 6, (("uneven", True),), ((0, 1, 2),))
AGAIN = Drawing("three samples again", 3, 6, calls=((0, 1, 2),))
"""Batches of other sizes, one after the other on the same model: a plan that was kept meets all of them."""

SAMPLED = 4
"""One model in so many makes every call of every drawing; the others take turns."""


def drawings(stage: str, model: str, packed: bool) -> Iterator[Drawing]:
    """Yield what a stage draws on `model`: enough to show the layers, and in the first stage what catches guesses.

    Args:
        packed: whether the model packs images, so that unequal ones are a case of their own.
    """
    yield FIRST
    if stage == "generate":
        return
    yield SQUARE
    if stage != "linear_layers":
        return
    turn = zlib.crc32(model.encode())
    if turn % SAMPLED == 0:
        yield from (HEADED, LARGER, UNEQUAL) if packed else (HEADED, LARGER)
    else:
        yield replace(HEADED, calls=(HEADED.calls[turn // 8 % 4],)) if turn // SAMPLED % 2 else LARGER
        if packed:
            yield UNEQUAL
    yield AGAIN
