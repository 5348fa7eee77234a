"""Saved modules below peft 0.18: a module that the active adapter lacks is not in the state of the model.

0.9 and 0.10 raise in `set_adapter`; 0.11 to 0.14 leave the wrapper disabled for good; 0.15 to 0.17 put another
adapter's module in use when a `disable_adapter()` ends. In all of them loading an adapter makes its saved modules
active though the adapter is not. Later outputs are silently wrong.
"""

from __future__ import annotations

import functools
import inspect
import sys
from typing import Any, Callable, Iterator, List, Sequence, Set

from shim.patch import Patch, Replacement
from shim.patches import toys

# The heads that PEFT's task models save for every adapter; below 0.12 no configuration names them.
_HEADS = {
    "PeftModelForSequenceClassification": {"classifier", "score"},
    "PeftModelForTokenClassification": {"classifier", "score"},
    "PeftModelForQuestionAnswering": {"qa_outputs"},
}


def is_broken() -> bool:
    """Load `two` beside `one` and switch to it and back: is each saved module in use exactly where it should be?"""
    model = toys.two_saved_modules()
    states: List[Any] = [_in_use(model)]
    try:
        for name in ("two", "one"):
            model.set_adapter(name)
            states.append(_in_use(model))
    except (ValueError, KeyError):
        return True
    return states != [(1, 0), (0, 2), (1, 0)]


def replacements() -> Sequence[Replacement]:
    """Let a wrapper know the model's active adapter even where it has no module for it."""
    from peft import PeftModel
    from peft.utils import other

    # Breakpoint: huggingface/peft#2376, peft 0.15.0: wrappers take a list.
    takes_list = "adapter_names" in inspect.signature(other.ModulesToSaveWrapper.set_adapter).parameters
    set_adapter_as_here = set_adapter_of_list if takes_list else set_adapter
    return [
        Replacement.by(other.ModulesToSaveWrapper, "set_adapter", set_adapter_as_here),
        Replacement.by(other.ModulesToSaveWrapper, "enable_adapters", enable_adapters),
        Replacement(PeftModel, "add_adapter", _following_the_active_adapter(vars(PeftModel)["add_adapter"])),
        *_wherever_imported("_set_adapter", set_adapter_of_wrappers),
        *_own_modules_only(other._set_trainable),
    ]


def _wherever_imported(name: str, function: Callable[..., Any]) -> Iterator[Replacement]:
    """Yield replacements of a function of peft.utils.other in every module of PEFT that copied it."""
    from peft.utils import other

    original = vars(other)[name]
    for module_name, module in list(sys.modules.items()):
        if module_name.split(".")[0] == "peft" and module is not None and vars(module).get(name) is original:
            yield Replacement.by(module, name, function)


def set_adapter(self: Any, adapter_name: str) -> None:
    """Make `adapter_name` the active adapter; without a module of its own the original module serves it."""
    for module in self.modules_to_save.values():
        module.requires_grad_(False)
    if adapter_name in self.modules_to_save:
        self.modules_to_save[adapter_name].requires_grad_(True)
    self._active_adapter = adapter_name


def set_adapter_of_list(self: Any, adapter_names: Any) -> None:
    """Make the adapter, a name or a list of one, active, as `set_adapter`.

    Raises:
        ValueError: the list has several.
    """
    names = [adapter_names] if isinstance(adapter_names, str) else adapter_names
    if len(names) > 1:
        raise ValueError(f"Attempted to set multiple ({names}) adapters at once for modules_to_save.")
    set_adapter(self, names[0])


def enable_adapters(self: Any, enabled: bool) -> None:
    """Toggle the saved modules, as upstream, also where the active adapter has none here."""
    if self._disable_adapters is not enabled:
        return  # already in the desired state
    self.original_module.requires_grad_(not enabled)
    self.modules_to_save.requires_grad_(False)
    if enabled and self.active_adapter in self.modules_to_save:
        self.modules_to_save[self.active_adapter].requires_grad_(True)
    self._disable_adapters = not enabled


def set_adapter_of_wrappers(model: Any, adapter_name: Any) -> None:
    """Tell every wrapper of `model` its active adapter: one name, or a list of one."""
    from shim.modules import layer_kinds

    wrappers = [module for module in model.modules() if isinstance(module, layer_kinds()[1])]
    if wrappers and not isinstance(adapter_name, str):
        if len(adapter_name) != 1:
            raise ValueError("Only one adapter can be set at a time for modules_to_save")
        adapter_name = adapter_name[0]
    for wrapper in wrappers:
        if "modules_to_save" in vars(wrapper)["_modules"]:
            wrapper.set_adapter(adapter_name)
        else:  # trainable tokens, as upstream
            wrapper.enable_adapters(adapter_name in wrapper._adapters)
            if adapter_name in wrapper._adapters:
                wrapper.set_adapter(adapter_name)


def _own_modules_only(set_trainable: Callable[..., Any]) -> Iterator[Replacement]:
    # Breakpoint: huggingface/peft#2220, peft 0.15.0: the caller says which modules are the adapter's.
    if "module_names" not in inspect.signature(set_trainable).parameters:
        yield from _wherever_imported("_set_trainable", _with_own_modules(set_trainable))


def _with_own_modules(original: Callable[..., None]) -> Callable[..., None]:
    """Return `_set_trainable` that copies for an adapter the modules that it names, not all that any adapter does."""

    @functools.wraps(original)
    def set_trainable(model: Any, adapter_name: str) -> None:
        everyones = model.modules_to_save
        model.modules_to_save = _modules_of(model, adapter_name) or everyones
        try:
            original(model, adapter_name)
        finally:
            model.modules_to_save = everyones

    return set_trainable


def _modules_of(model: Any, adapter_name: str) -> Set[str]:
    """Return the modules that an adapter saves: those of its configuration, and its task's head."""
    named = set(getattr(model.peft_config[adapter_name], "modules_to_save", None) or ())
    for cls in type(model).__mro__:
        named |= _HEADS.get(cls.__name__, set())
    return named


def _following_the_active_adapter(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def add_adapter(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        if not self.active_peft_config.is_prompt_learning:
            active = list(self.base_model.active_adapters)  # the model's own is one name, and may be an older one
            set_adapter_of_wrappers(self, active[0])
            _set_adapter_of_new_layers(self, active)
        return result

    return add_adapter


def _set_adapter_of_new_layers(model: Any, names: List[str]) -> None:
    """Take back that a layer which only the new adapter targets is born with it active (0.9 and 0.10).

    Not `layer.set_adapter`, which would make the weights trainable.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in model.modules():
        if isinstance(module, BaseTunerLayer) and list(module.active_adapters) != names:
            module._active_adapter = names


def _in_use(model: Any) -> Any:
    return toys.saved_weight_in_use(model, "first"), toys.saved_weight_in_use(model, "second")


PATCH = Patch(
    name="saved_modules_switch",
    defect="an adapter that lacks a saved module raises in set_adapter, or switches the module off for all",
    breakpoint="huggingface/peft#2422 and #2430 (0.15.0) for set_adapter, #2758 (0.18.0) for the rest",
    distribution="peft",
    affected="<0.18",
    clauses=("H1", "H2", "H3"),
    check="adapters_stay_right_after_switching_and_disabling",
    is_broken=is_broken,
    replacements=replacements,
)
