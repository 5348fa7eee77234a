"""Deleting an adapter: its saved modules or merged weights stay, or the next adapter's modules are not taken up.

Below 0.16 saved modules outlive their adapter, and below 0.21 what was merged stays in the base weights for good. On
every version up to 0.21.2 each layer picks its own next adapter, and a module that only the next adapter saves stays on
the base's, so that the model is a mixture.
"""

from __future__ import annotations

import functools
from typing import Any, Callable, List, Sequence

from shim.patch import Patch, Replacement
from shim.patches import toys


def is_broken() -> bool:
    """Delete the active `one`: is anything left of it, and is `two` whole?"""
    model = toys.two_saved_modules()
    try:
        model.set_adapter("one")  # below 0.18 loading `two` puts its module in use, which would look right
        model.delete_adapter("one")
    except (AttributeError, KeyError, ValueError):
        return True
    left = [name for name, _ in model.named_parameters() if ".one." in name]
    return bool(left) or toys.saved_weight_in_use(model, "second") != 2 or model.active_adapter != "two"


def replacements() -> Sequence[Replacement]:
    """Delete the saved modules too, and make one remaining adapter active in every layer."""
    from peft import PeftModel

    # There from peft 0.18.1 on, absent in 0.14.0; before, the tuner's own is found by __getattr__.
    original = vars(PeftModel).get("delete_adapter", _delete_in_tuner)
    return [Replacement.by(PeftModel, "delete_adapter", _deleting_everything(original))]


def _delete_in_tuner(self: Any, adapter_name: str) -> None:
    """Delete an existing adapter."""
    self.base_model.delete_adapter(adapter_name)


def _deleting_everything(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def delete_adapter(self: Any, adapter_name: str) -> None:
        _check_not_merged(self, adapter_name)
        active = _active(self)
        original(self, adapter_name)
        delete_saved_modules(self, adapter_name)
        if adapter_name in active and self.peft_config and not _learns_prompts(self):
            left = [name for name in self.base_model.active_adapters if name in active and name in self.peft_config]
            self.set_adapter(left[0] if left else next(iter(self.peft_config)))
            if len(left) > 1:  # PeftModel.set_adapter takes one
                self.base_model.set_adapter(left)

    return delete_adapter


def _active(model: Any) -> List[str]:
    """Return the adapters that the model or its layers take for active: they differ after `base_model.set_adapter`."""
    own = model.active_adapter
    names = [own] if isinstance(own, str) else list(own)
    return names if _learns_prompts(model) else names + list(model.base_model.active_adapters)


def _learns_prompts(model: Any) -> bool:
    return any(config.is_prompt_learning for config in model.peft_config.values())


def _check_not_merged(model: Any, adapter_name: str) -> None:
    """Check that no layer holds `adapter_name` in its base weights, from where only its own weights can take it.

    Raises:
        ValueError: one does.
    """
    from shim.modules import adapter_layers, layer_kinds

    # Breakpoint: huggingface/peft#3504, peft 0.21.0: upstream refuses likewise.
    for name, layer in adapter_layers(model):
        if isinstance(layer, layer_kinds()[0]) and adapter_name in layer.merged_adapters:
            raise ValueError(
                f"adapter {adapter_name!r} is merged into {name}, but should not be when it is deleted: its weights "
                "would stay there for good. Call model.unmerge_adapter() first"
            )


def delete_saved_modules(model: Any, adapter_name: str) -> None:
    """Delete what `adapter_name` saves in any layer of `model`, where upstream left it."""
    from shim.batch import holds
    from shim.modules import adapter_layers, layer_kinds

    for _, layer in adapter_layers(model):
        if isinstance(layer, layer_kinds()[1]) and holds(layer, adapter_name):
            # Breakpoint: huggingface/peft#2466, peft 0.16.0: upstream deletes them itself.
            getattr(layer, "_adapters", set()).discard(adapter_name)
            token_adapter = vars(layer)["_modules"].get("token_adapter")
            if token_adapter is not None:
                token_adapter.delete_adapter(adapter_name)
            else:
                del layer.modules_to_save[adapter_name]


PATCH = Patch(
    name="saved_modules_delete",
    defect="deleting an adapter leaves its saved modules, or the next adapter's unused",
    breakpoint="huggingface/peft#2466 (0.16.0) for the modules, #3504 (0.21.0) for merged ones; none yet for the next",
    distribution="peft",
    affected=">=0.9",
    clauses=("H3", "S4"),
    check="adapters_stay_right_after_loading_and_deleting",
    is_broken=is_broken,
    replacements=replacements,
)
