"""What the suite knows about one model: how to build it, what to feed it, what adapters may change in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable, Dict, FrozenSet, Tuple

if TYPE_CHECKING:
    import torch

Inputs = Dict[str, "torch.Tensor"]
"""Keyword arguments of one forward pass; dimension 0 of every tensor counts the samples."""

Build = Callable[[], "torch.nn.Module"]
Draw = Callable[[int, int, "torch.Generator"], Inputs]

TAGS = frozenset(
    {
        "text",
        "image",
        "audio",
        "causal-lm",
        "encoder-decoder",
        "generates",
        "classifies",
        "folds-batch",  # some layer sees more rows than there are samples
        "time-major",  # some layer sees the samples in dimension 1
        "sorts-rows",  # some layer sees the samples in an order that hangs on their values
        "experts",  # some layer sees the tokens of many samples in one list
        "contrastive",  # some output compares every sample with every other, and so has no rows
        "integer",  # every sum is exact in float32
        "rounds-coarsely",  # bfloat16 moves its output about as far as adapters do, so that it cannot tell them apart
    }
)


@dataclass(frozen=True)
class Model:
    """A tiny random model as plain data; making one imports neither torch nor transformers.

    Outputs hold their samples in dimension 0, as inputs do; only the logits of a "contrastive" model do not.
    To generate with an "encoder-decoder", leave `decoder_input_ids` out of the inputs.
    """

    name: str
    """The id in reports, in kebab case."""
    architecture: str
    """The class in transformers, or "" for a module of our own."""
    build: Build
    """Return the model with random weights under the current torch rng: evaluation mode, float32, CPU."""
    inputs: Draw
    """`(samples, length, generator)` to inputs whose rows are all distinct, while there are as many; see `Inputs`."""
    targets: Tuple[str, ...]
    """Suffixes of module names for LoRA; each matches alone, so any non-empty subset will do."""
    saved: Tuple[str, ...]
    """Endings of module names for `modules_to_save`; no target lies inside one of them."""
    tags: FrozenSet[str]
    """Which of `TAGS` hold."""
    lengths: Tuple[int, ...]
    """Sequence lengths worth drawing; for images the one size that fits."""

    @property
    def has_rows(self) -> bool:
        """Whether outputs belong to samples."""
        return "contrastive" not in self.tags

    def __post_init__(self) -> None:
        unknown = self.tags - TAGS
        if unknown:
            raise ValueError(f"model {self.name!r} has tags that do not exist: {', '.join(sorted(unknown))}")
