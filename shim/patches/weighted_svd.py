"""Combining adapters by their singular values: each part's scaling is applied twice.

It multiplies the weights, and the products that they weigh have it already (`get_delta_weight`).
"""

from __future__ import annotations

import functools
from typing import Any, Callable, Sequence

from shim.patch import Patch, Replacement
from shim.patches import toys

_METHOD = "_svd_generalized_task_arithmetic_weighted_adapter"


def is_broken() -> bool:
    """Is the sum of two adapters by `svd`, of a rank that allows it, their sum?"""
    return toys.gap_of_a_sum([1.0, 1.0], combination_type="svd", svd_rank=3) > toys.ROUNDING


def replacements() -> Sequence[Replacement]:
    """Divide the weights by the scalings that upstream multiplies them by."""
    from peft.tuners.lora import LoraModel

    return [Replacement(LoraModel, _METHOD, _scaled_once(vars(LoraModel)[_METHOD]))]


def _scaled_once(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def combine(
        self: Any, combination_type: Any, adapters: Any, weights: Any, new_rank: Any, target: Any, *args: Any, **kw: Any
    ) -> Any:
        # An adapter that does not lie on the layer has no scaling; one scaled by 0 adds nothing, whatever its weight.
        scalings = [target.scaling.get(adapter, 1.0) or 1.0 for adapter in adapters]
        weights = [weight / scaling for weight, scaling in zip(weights, scalings)]
        return original(self, combination_type, adapters, weights, new_rank, target, *args, **kw)

    return combine


PATCH = Patch(
    name="weighted_svd",
    defect="adapters combined by svd have their scaling applied twice",
    breakpoint="huggingface/peft#3111, peft 0.21.0",
    distribution="peft",
    affected=">=0.9,<0.21",
    clauses=("A2",),
    check="an_adapter_combined_by_svd_is_the_nearest_to_the_weighted_sum",
    is_broken=is_broken,
    replacements=replacements,
)
