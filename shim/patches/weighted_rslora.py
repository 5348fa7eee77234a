"""Combining adapters of rank-stabilised LoRA: the combination comes out the square root of its rank too large.

`add_weighted_adapter` puts every part's scaling into the new weights, and sets the new scaling to alpha / rank = 1; but
it takes `use_rslora` over from the first part, so that the scaling is alpha / sqrt(rank).
"""

from __future__ import annotations

import functools
import math
from typing import Any, Callable, Sequence

from shim.patch import Patch, Replacement
from shim.patches import toys


def is_broken() -> bool:
    """Is the sum of two rsLoRA adapters their sum?"""
    return toys.gap_of_a_sum([1.0, 1.0], use_rslora=True, combination_type="cat") > toys.ROUNDING


def replacements() -> Sequence[Replacement]:
    """Scale what was combined as LoRA is."""
    from peft.tuners.lora import LoraModel

    return [Replacement(LoraModel, "add_weighted_adapter", _scaled_once(vars(LoraModel)["add_weighted_adapter"]))]


def _scaled_once(original: Callable[..., Any]) -> Callable[..., Any]:
    from peft.tuners.lora import LoraLayer

    @functools.wraps(original)
    def add_weighted_adapter(self: Any, adapters: Any, weights: Any, adapter_name: str, *args: Any, **kw: Any) -> Any:
        before = self.peft_config.get(adapter_name)
        result = original(self, adapters, weights, adapter_name, *args, **kw)
        config = self.peft_config.get(adapter_name)
        if config is not None and config is not before and config.use_rslora:
            config.use_rslora = False
            for layer in self.model.modules():
                if isinstance(layer, LoraLayer) and adapter_name in layer.scaling:
                    layer.scaling[adapter_name] /= math.sqrt(layer.r[adapter_name])
        return result

    return add_weighted_adapter


PATCH = Patch(
    name="weighted_rslora",
    defect="a combination that begins with an rsLoRA adapter is the square root of its rank too large",
    breakpoint="huggingface/peft#3449, merged after peft 0.21.2",
    distribution="peft",
    affected=">=0.9,<=0.21.2",
    clauses=("A2",),
    check="a_concatenated_adapter_is_the_weighted_sum_of_its_parts",
    is_broken=is_broken,
    replacements=replacements,
)
