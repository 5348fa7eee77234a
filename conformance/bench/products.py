"""The two terms of a LoRA layer apart: base time W x and adapter time B(A x), and their ratio against the rank.

The floor is the ratio of their multiplications, which is also that of the weights to be read: rank * (in + out) to
in * out. What is above it is what small products, launches and Python cost; merging saves all of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Iterator, List, Sequence

from conformance.bench.measurements import Row, measuring, one_thread, spread
from conformance.bench.timing import interleaved


@dataclass(frozen=True)
class Case:
    """One square layer of `width` under an adapter of `rank`, called on `tokens` tokens."""

    width: int
    rank: int
    tokens: int

    @property
    def name(self) -> str:
        """The case in words."""
        return f"width {self.width}, {self.tokens} tokens, rank {self.rank}"

    @property
    def floor(self) -> float:
        """The least that the adapter can cost, as a ratio to the base product."""
        return 2 * self.rank / self.width


def cases(quick: bool) -> List[Case]:
    """Return the layers to measure."""
    widths, ranks = ((1024,), (8, 64)) if quick else ((512, 1024, 2048, 4096), (4, 8, 16, 32, 64))
    return [Case(width, rank, tokens) for width in widths for tokens in (1, 32, 512) for rank in ranks]


def measure(*, quick: bool, seconds: float, of: Sequence[Case] = ()) -> List[Row]:
    """Return for each case (or those of `of`) what the adapter, the layer unmerged and merged cost, one thread."""
    with one_thread():
        return [row for case in of or cases(quick) for row in _ratios(case, seconds)]


def _ratios(case: Case, seconds: float) -> Iterator[Row]:
    import torch

    measuring(case.name)
    unmerged, merged = _layer(case), _layer(case)
    merged.merge()
    base, down, up = unmerged.base_layer, unmerged.lora_A["a0"], unmerged.lora_B["a0"]
    x = torch.randn(case.tokens, case.width, generator=torch.Generator().manual_seed(0))
    ways = {
        "base": lambda: base(x),
        "adapter": lambda: up(down(x)) * unmerged.scaling["a0"],
        "unmerged": lambda: unmerged(x),
        "merged": lambda: merged(x),
        "base again": lambda: base(x),
    }
    found = interleaved(ways, seconds=seconds)
    for way in ways:
        if way != "base":
            floor = {"adapter": case.floor, "unmerged": 1 + case.floor}.get(way, 1.0)
            value = found[way].median / found["base"].median
            yield Row(f"{case.name}: {way}", value, "x base", spread=spread({way: found[way]}), floor=floor)


def _layer(case: Case) -> Any:
    """Return a linear layer with one random adapter, a0."""
    import peft
    import torch

    torch.manual_seed(0)
    config = peft.LoraConfig(r=case.rank, target_modules=["0"], init_lora_weights=False)
    stack = torch.nn.Sequential(torch.nn.Linear(case.width, case.width, bias=False))
    return peft.inject_adapter_in_model(config, stack, adapter_name="a0").eval()[0]
