"""Attributes of a saved module where the active adapter has none: peft 0.14 to 0.18 raise, and ask no original.

0.18 comes to that by itself where a model whose active adapter saves nothing loads one that does; from transformers 5,
loading asks every module for its tied weights, so that the next adapter cannot be loaded at all. Before, it takes a
wrapper that knows the model's active adapter, as `saved_modules_switch` lets it.
"""

from __future__ import annotations

import functools
from typing import Any, Callable, List, Sequence

from shim.patch import Patch, Replacement, with_subclasses
from shim.patches import toys


def is_broken() -> bool:
    """Let no adapter of a wrapper's be active: does it have the original's attributes?"""
    if not _owners():
        return False
    wrapper = toys.two_saved_modules().get_base_model().second
    wrapper._active_adapter = "one" if isinstance(wrapper._active_adapter, str) else []
    try:
        return bool(wrapper.in_features != 2)
    except (IndexError, AttributeError):
        return True


def replacements() -> Sequence[Replacement]:
    """Let a wrapper without a module of the active adapter have its original module's attributes."""
    return [Replacement(cls, "__getattr__", _or_of_the_original(vars(cls)["__getattr__"])) for cls in _owners()]


def _owners() -> List[Any]:
    """Return the classes by which wrappers have attributes of what they wrap; none has before peft 0.14."""
    from peft.utils import other

    # Breakpoint: huggingface/peft#2376, peft 0.15.0: trainable tokens have a wrapper of the same kind.
    owner = getattr(other, "AuxiliaryTrainingWrapper", other.ModulesToSaveWrapper)
    return [cls for cls in with_subclasses(owner) if "__getattr__" in vars(cls)]


def _or_of_the_original(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def __getattr__(self: Any, name: str) -> Any:
        try:
            return original(self, name)
        except (AttributeError, IndexError):
            if _serves_the_active_adapter(self):
                raise
        return getattr(vars(self)["_modules"]["original_module"], name)

    return __getattr__


def _serves_the_active_adapter(wrapper: Any) -> bool:
    """Whether a wrapper has a module of the adapter that is active, or is not made yet."""
    modules = vars(wrapper).get("_modules") or {}
    if "_active_adapter" not in vars(wrapper) or not {"original_module", "modules_to_save"} <= set(modules):
        return True
    active = wrapper.active_adapter
    names = [active] if isinstance(active, str) else list(active)
    return any(name in modules["modules_to_save"] for name in names)


PATCH = Patch(
    name="saved_modules_attributes",
    defect="a module that the active adapter does not save has no attributes, for want of which load_adapter raises",
    breakpoint="huggingface/peft#2936, peft 0.19.0",
    distribution="peft",
    affected=">=0.14,<0.19",
    clauses=("H3", "S5"),
    check="adapters_saved_and_loaded_again_have_the_same_rows",
    is_broken=is_broken,
    replacements=replacements,
)
