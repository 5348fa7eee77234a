"""Adapters that come while all are disabled: the layers and modules that only they touch are born enabled.

Later the model, which says that it is disabled, answers as a mixture: as soon as the new adapter is made active, its
new layers run it, and the others do not.
"""

from __future__ import annotations

import functools
from typing import Any, Callable, List, Sequence

from shim.patch import Patch, Replacement
from shim.patches import toys


def is_broken() -> bool:
    """Disable a model and add an adapter on another layer: is that layer disabled, too?"""
    model = toys.disabled_with_a_new_layer()
    return not all(layer._disable_adapters for layer in _layers(model))


def replacements() -> Sequence[Replacement]:
    """Disable what `add_adapter` wraps in a model that is disabled."""
    from peft import PeftModel

    return [Replacement(PeftModel, "add_adapter", _staying_disabled(vars(PeftModel)["add_adapter"]))]


def _staying_disabled(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def add_adapter(self: Any, *args: Any, **kwargs: Any) -> Any:
        before = _layers(self)
        result = original(self, *args, **kwargs)
        if before and all(layer._disable_adapters for layer in before):
            for layer in _layers(self):
                if not layer._disable_adapters:
                    layer.enable_adapters(False)
        return result

    return add_adapter


def _layers(model: Any) -> List[Any]:
    from shim.modules import adapter_layers

    return [layer for _, layer in adapter_layers(model)]


PATCH = Patch(
    name="disabled_stay_disabled",
    defect="an adapter that is added while all are disabled is enabled in the layers that only it touches",
    breakpoint="none yet; huggingface/peft#1663 (0.11.0) calls such a model irregular",
    distribution="peft",
    affected=">=0.9",
    clauses=("S4", "H3"),
    check="a_disabled_model_stays_the_base_model_whatever_is_added",
    is_broken=is_broken,
    replacements=replacements,
)
