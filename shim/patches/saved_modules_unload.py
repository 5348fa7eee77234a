"""Unloading below peft 0.21: a wrapper without a module for the active adapter raises, or gives another's."""

from __future__ import annotations

import functools
from typing import Any, Callable, List, Sequence, Tuple

from shim.patch import Patch, Replacement, with_subclasses
from shim.patches import toys


def is_broken() -> bool:
    """Unload while `one` is active: is `first` its own, and `second` the base's?"""
    model = toys.two_saved_modules()
    try:
        model.set_adapter("one")
        plain = model.unload()
        weights = plain.first.weight[0, 0].item(), plain.second.weight[0, 0].item()
    except (KeyError, TypeError, ValueError, AttributeError):
        return True
    return weights != (1.0, 0.0)


def replacements() -> Sequence[Replacement]:
    """Put the original modules back first where the active adapter saves nothing."""
    from peft.tuners.tuners_utils import BaseTuner

    name = "_unload_and_optionally_merge"
    owners = [cls for cls in with_subclasses(BaseTuner) if name in vars(cls)]
    return [Replacement(owner, name, _originals_first(vars(owner)[name])) for owner in owners]


def _originals_first(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def unload(self: Any, *args: Any, **kwargs: Any) -> Any:
        unused = _unused_wrappers(self.model)
        for parent, name, wrapper in unused:
            setattr(parent, name, wrapper.original_module)
        try:
            return original(self, *args, **kwargs)
        except BaseException:
            for parent, name, wrapper in unused:
                setattr(parent, name, wrapper)
            raise

    return unload


def _unused_wrappers(model: Any) -> List[Tuple[Any, str, Any]]:
    """Return (parent, name, wrapper) of the saved-module wrappers that serve the active adapter nothing."""
    from peft.utils.other import ModulesToSaveWrapper

    found = []
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ModulesToSaveWrapper):
                active = child.active_adapter
                names = [active] if isinstance(active, str) else list(active)
                if len(names) == 1 and names[0] in child.modules_to_save:
                    child._active_adapter = names[0]  # 0.18 keeps a list here, which no ModuleDict takes
                else:
                    found.append((parent, name, child))
    return found


PATCH = Patch(
    name="saved_modules_unload",
    defect="unload raises or returns another adapter's module where the active adapter saves nothing",
    breakpoint="huggingface/peft#3455, peft 0.21.0",
    distribution="peft",
    affected="<0.21",
    clauses=("H3",),
    check="a_merged_and_unloaded_model_answers_as_its_adapter",
    is_broken=is_broken,
    replacements=replacements,
)
