"""Switching adapters that are in a model of transformers itself: wrong where they save modules, or target others.

On every version `set_adapter` and `add_adapter` raise where an adapter saves no module that another does, and
`enable_adapters` leaves saved modules disabled. Below peft 0.18 `load_adapter` leaves a mixture of what was active and
what is new, and so does `delete_adapter` everywhere. Later outputs are silently wrong.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any, Callable, List, Sequence, Tuple

from shim.patch import Patch, Replacement
from shim.patches import toys

Method = Callable[..., Any]


def is_broken() -> bool:
    """Add two adapters that save different modules and switch: is each module in use exactly where it should be?"""
    try:
        model = toys.own_saved_modules()
        states = [_in_use(model)]
        model.set_adapter("one")
        model.disable_adapters()
        states.append(_in_use(model))
        model.enable_adapters()
        states.append(_in_use(model))
    except Exception:  # of several classes, as versions go
        return True
    return states != [(0, 2), (0, 0), (1, 0)]


def replacements() -> Sequence[Replacement]:
    """Let every layer and every saved module follow the adapter that is active."""
    from transformers.integrations import PeftAdapterMixin

    mended = {
        "set_adapter": _set_adapter,
        "enable_adapters": _enable_adapters,
        "load_adapter": _load_adapter,
        # Breakpoint: huggingface/transformers#34650, there in 4.51, absent in 4.47.
        "delete_adapter": _delete_adapter,
        "active_adapters": _active_adapters,
    }
    found = vars(PeftAdapterMixin)
    return [Replacement(PeftAdapterMixin, name, mend(found[name])) for name, mend in mended.items() if name in found]


def _set_adapter(original: Method) -> Method:
    @functools.wraps(original)
    def set_adapter(self: Any, adapter_name: Any) -> None:
        names = [adapter_name] if isinstance(adapter_name, str) else list(adapter_name)
        known = getattr(self, "peft_config", {})
        if _layers(self)[1] and names and all(name in known for name in names):
            _activate(self, names)
        else:
            original(self, adapter_name)  # right, or an error of its own

    return set_adapter


def _enable_adapters(original: Method) -> Method:
    @functools.wraps(original)
    def enable_adapters(self: Any) -> None:
        original(self)
        tuners, wrappers = _layers(self)
        for wrapper in wrappers:
            wrapper.enable_adapters(True)
        if wrappers and tuners and tuners[0].active_adapters:
            _activate(self, list(tuners[0].active_adapters))

    return enable_adapters


def _load_adapter(original: Method) -> Method:
    @functools.wraps(original)
    def load_adapter(self: Any, *args: Any, **kwargs: Any) -> Any:
        before = _layers(self)[0]
        result = original(self, *args, **kwargs)
        # Whether what is loaded becomes active is the version's own; what was there before says it.
        known = (before or _layers(self)[0])[:1]
        trained = [(parameter, parameter.requires_grad) for parameter in self.parameters()]
        for layer in known:
            _activate(self, list(layer.active_adapters))
        for parameter, wanted in trained:
            parameter.requires_grad_(wanted)
        return result

    return load_adapter


def _delete_adapter(original: Method) -> Method:
    from shim.patches.saved_modules_delete import delete_saved_modules

    @functools.wraps(original)
    def delete_adapter(self: Any, adapter_names: Any) -> None:
        active = [name for layer in _layers(self)[0][:1] for name in layer.active_adapters]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # each layer's own choice of the next one
            original(self, adapter_names)
        for name in [adapter_names] if isinstance(adapter_names, str) else adapter_names:
            delete_saved_modules(self, name)
        left = list(getattr(self, "peft_config", {}))
        if left:
            _activate(self, [name for name in active if name in left] or left[:1])

    return delete_adapter


def _active_adapters(original: Method) -> Method:
    @functools.wraps(original)
    def active_adapters(self: Any) -> Any:
        found = original(self)
        tuners, wrappers = _layers(self)
        # Trained tokens lie in a layer of their own, which upstream takes for one that knows.
        return list(tuners[0].active_adapters) if wrappers and tuners else found

    return active_adapters


def _activate(model: Any, names: List[str]) -> None:
    """Make `names` active in every layer of `model`, and leave disabled what is.

    Raises:
        ValueError: there are several, and modules are saved, of which one can be in use.
    """
    from peft.utils import other

    tuners, wrappers = _layers(model)
    disabled = any(layer.disable_adapters for layer in tuners)
    # First, since it refuses before anything is changed. Looked up, since `saved_modules_switch` mends it.
    other._set_adapter(model, names[0] if len(names) == 1 else names)
    for layer in tuners:
        layer.set_adapter(names)
    if disabled:
        for wrapper in wrappers:
            wrapper.enable_adapters(False)


def _layers(model: Any) -> Tuple[List[Any], List[Any]]:
    """Return the tuner layers of `model`, and the wrappers of its saved modules and trained tokens."""
    from shim.modules import layer_kinds

    tuner_layer, wrapper = layer_kinds()
    wrappers = [module for module in model.modules() if isinstance(module, wrapper)]
    inside = {id(vars(module)["_modules"].get("token_adapter")) for module in wrappers}  # switched by their wrapper
    tuners = [module for module in model.modules() if isinstance(module, tuner_layer) and id(module) not in inside]
    return tuners, wrappers


def _in_use(model: Any) -> Tuple[float, float]:
    return toys.weight_in_use(model.first), toys.weight_in_use(model.second)


PATCH = Patch(
    name="models_own_switching",
    defect="adapters in a transformers model raise, or are a mixture, where they save modules or target other layers",
    breakpoint="none yet; huggingface/transformers#41252 (4.57, with peft 0.18) for the modules of a deleted one",
    distribution="transformers",
    affected=">=4.33",
    clauses=("L5", "H3"),
    check="a_models_own_adapters_stay_right_after_switching_and_deleting",
    is_broken=is_broken,
    replacements=replacements,
)
