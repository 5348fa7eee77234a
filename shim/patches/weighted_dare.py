"""Combining adapters by DARE: what random pruning keeps is not scaled up for what it drops."""

from __future__ import annotations

import functools
from typing import Any, Callable, Sequence

from shim.patch import Patch, Replacement


def is_broken() -> bool:
    """Is what is kept of ones, when one in two is dropped, still one?"""
    import torch
    from peft.utils import merge_utils

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        kept: Any = merge_utils.random_pruning(torch.ones(16), 0.5, rescale=True)
    return bool((kept == 1.0).any())


def replacements() -> Sequence[Replacement]:
    """Divide by the density, as `torch.div` does whose result upstream drops."""
    from peft.utils import merge_utils

    return [Replacement(merge_utils, "random_pruning", _scaled_up(merge_utils.random_pruning))]


def _scaled_up(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def random_pruning(tensor: Any, density: float, rescale: bool) -> Any:
        pruned = original(tensor, density, rescale)
        return pruned / density if rescale else pruned

    return random_pruning


PATCH = Patch(
    name="weighted_dare",
    defect="adapters combined by DARE are not scaled up for the elements that were dropped",
    breakpoint="huggingface/peft#3152, peft 0.19.1",
    distribution="peft",
    affected=">=0.9,<0.19.1",
    clauses=("A2",),
    check="adapters_combined_matrix_by_matrix_are_what_each_way_says",
    is_broken=is_broken,
    replacements=replacements,
)
