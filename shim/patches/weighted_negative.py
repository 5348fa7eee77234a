"""Combining adapters matrix by matrix with negative weights: both A and B take the sign, so that it is lost."""

from __future__ import annotations

import functools
from typing import Any, Callable, Sequence

from shim.patch import Patch, Replacement
from shim.patches import toys

_METHOD = "_generalized_task_arithmetic_weighted_adapter"


def is_broken() -> bool:
    """Is an adapter times minus one its negative? Before 0.18 that is refused."""
    try:
        return toys.gap_of_a_sum([-1.0], combination_type="linear") > toys.ROUNDING
    except ValueError:
        return False


def replacements() -> Sequence[Replacement]:
    """Take A of the weights with their signs, and B of those without."""
    from peft.tuners.lora import LoraModel

    return [Replacement(LoraModel, _METHOD, _signed_once(vars(LoraModel)[_METHOD]))]


def _signed_once(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def combine(self: Any, combination_type: Any, adapters: Any, weights: Any, *args: Any, **kw: Any) -> Any:
        signed = original(self, combination_type, adapters, weights, *args, **kw)
        if all(weight >= 0 for weight in weights):
            return signed
        unsigned = original(self, combination_type, adapters, [abs(weight) for weight in weights], *args, **kw)
        return [signed[0], unsigned[1]]

    return combine


PATCH = Patch(
    name="weighted_negative",
    defect="adapters combined matrix by matrix lose the sign of negative weights",
    breakpoint="huggingface/peft#2918, peft 0.19.0",
    distribution="peft",
    affected=">=0.18,<0.19",
    clauses=("A2",),
    check="a_negative_weight_takes_an_adapter_away",
    is_broken=is_broken,
    replacements=replacements,
)
