"""The modules of a model as a mixed call sees them: which choose an adapter, which are in training mode."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any, Collection, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

import torch

Layers = Tuple[Tuple[str, Any], ...]


@dataclass(frozen=True)
class Change:
    """What somebody else has put on a module, by its place in the model: equal where that is the very same.

    hooks: by the numbers that torch gives to no other hook. forward: a forward of the module's own, weakly.
    """

    place: int
    pre_hooks: Tuple[int, ...]
    hooks: Tuple[int, ...]
    forward: Any


Changes = Tuple[Change, ...]


class Found(NamedTuple):
    """A module of a model. is_layer: it chooses an adapter; inside: it lies in one that does."""

    name: str
    module: Any
    is_layer: bool
    inside: bool


def walk(model: Any, adapters: Optional[Set[str]]) -> Iterator[Found]:
    """Yield every module once, but for what other adapters than `adapters` added: a call does not pay for those.

    With None all. Not by `named_modules`, in which lora.MultiheadAttention takes its weights off for a moment and puts
    new parameters in their place: another thread that runs it finds none.
    """
    kinds = layer_kinds()
    seen: Set[int] = set()
    stack: List[Tuple[str, Any, bool]] = [("", model, False)]
    while stack:
        name, module, inside = stack.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        is_layer = isinstance(module, kinds)
        yield Found(name, module, is_layer, inside or is_layer)
        prefix = name + "." if name else ""
        children = [(prefix + key, child) for key, child in dict(vars(module)["_modules"]).items() if child is not None]
        if is_layer and adapters is not None:
            children = [own for child in children for own in _of_adapters(*child, adapters)]
        stack += [(path, child, inside or is_layer) for path, child in reversed(children)]


def _of_adapters(path: str, module: Any, adapters: Set[str]) -> List[Tuple[str, Any]]:
    """Return a child of a layer, or where it holds one module for each adapter, those of `adapters`."""
    if not isinstance(module, torch.nn.ModuleDict):
        return [(path, module)]
    held = vars(module)["_modules"]
    return [(f"{path}.{key}", held[key]) for key in sorted(adapters) if key in held]


def named_modules(model: Any) -> Iterator[Tuple[str, Any]]:
    """Yield (name, module) of every module of `model`, itself among them, and change nothing."""
    for found in walk(model, None):
        yield found.name, found.module


def named_parameters(model: Any) -> Iterator[Tuple[str, Any]]:
    """Yield (name, parameter) of every parameter of `model`, a shared one at each of its places, and change nothing."""
    return _held(model, "_parameters")


def named_buffers(model: Any) -> Iterator[Tuple[str, Any]]:
    """Yield (name, buffer) of every buffer of `model`, likewise."""
    return _held(model, "_buffers")


def _held(model: Any, kind: str) -> Iterator[Tuple[str, Any]]:
    for path, module in named_modules(model):
        for name, tensor in dict(vars(module)[kind]).items():
            if tensor is not None:
                yield f"{path}.{name}" if path else name, tensor


def adapter_layers(model: Any, adapters: Collection[str] = ()) -> List[Tuple[str, Any]]:
    """Return (name, layer) of every tuner layer and saved-module wrapper of `model`.

    Those inside of what an adapter saves are among them where that adapter is one of `adapters`.
    """
    return [(found.name, found.module) for found in walk(model, set(adapters)) if found.is_layer]


def layer_kinds() -> Tuple[Any, Any]:
    """Return the classes of PEFT that choose an adapter when they run: tuner layers, saved-module wrappers."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import other

    # Breakpoint: huggingface/peft#2376, peft 0.15.0: AuxiliaryTrainingWrapper becomes the base class.
    wrapper = getattr(other, "AuxiliaryTrainingWrapper", None) or other.ModulesToSaveWrapper
    return (BaseTunerLayer, wrapper)


@dataclass(frozen=True)
class _Known:
    """The adapted layers of a model when they were last looked up by name.

    Held weakly: a hook on one may hold the model, which would then never go.
    """

    modules: Tuple[weakref.ref[Any], ...]
    layers: Tuple[Tuple[str, weakref.ref[Any]], ...]

    def are(self, modules: List[Any]) -> bool:
        """Whether `modules` are these very ones."""
        return len(self.modules) == len(modules) and all(ref() is module for ref, module in zip(self.modules, modules))


# What an adapter is mostly made of, and does the same whatever its mode: a call does not look at each of these.
_PASSIVE = frozenset({torch.nn.Linear, torch.nn.Identity, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d})
_KNOWN: weakref.WeakKeyDictionary[Any, _Known] = weakref.WeakKeyDictionary()


def layers_in_evaluation(model: Any, adapters: Set[str]) -> Optional[Tuple[Layers, Changes]]:
    """Return the adapted layers of a model all of whose modules are in evaluation mode and none is compiled.

    Beside them what was changed on its modules. None where one is not: look closer, by `walk`. Every call does this, so
    it goes over the modules once, and gathers names only where the layers are others than at the last call.
    """
    found: List[Any] = []
    changes: List[Change] = []
    seen: Set[int] = set()
    stack: List[Any] = [model]
    kinds: Dict[type, bool] = {}
    classes = layer_kinds()
    while stack:
        module = stack.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        state = vars(module)
        if state.get("training", True) or is_compiled(module):
            return None
        if _is_changed(state):
            changes.append(_change(len(seen), state))
        kind = type(module)
        is_layer = kinds.get(kind)
        if is_layer is None:
            is_layer = kinds[kind] = issubclass(kind, classes)
        if not is_layer:
            stack += [child for child in state["_modules"].values() if child is not None]
            continue
        found.append(module)
        for child in state["_modules"].values():
            if isinstance(child, torch.nn.ModuleDict):
                held = vars(child)["_modules"]
                stack += [held[name] for name in adapters if name in held and type(held[name]) not in _PASSIVE]
            elif child is not None:
                stack.append(child)
    known = _KNOWN.get(model)
    if known is None or not known.are(found):
        layers = tuple(adapter_layers(model, adapters))
        refs = tuple((name, weakref.ref(layer)) for name, layer in layers)
        _KNOWN[model] = _Known(tuple(map(weakref.ref, found)), refs)
    else:
        layers = tuple([(name, layer()) for name, layer in known.layers])
    return layers, tuple(changes)


def changes_of(modules: Sequence[Found]) -> Changes:
    """Return what was changed on `modules`, as `layers_in_evaluation` does."""
    return tuple(
        _change(place, state)
        for place, state in enumerate(vars(found.module) for found in modules)
        if _is_changed(state)
    )


def _is_changed(state: Mapping[str, Any]) -> bool:
    return bool(state["_forward_hooks"] or state["_forward_pre_hooks"] or "forward" in state)


def _change(place: int, state: Mapping[str, Any]) -> Change:
    forward = _reference(state.get("forward"))
    return Change(place, tuple(state["_forward_pre_hooks"]), tuple(state["_forward_hooks"]), forward)


def _reference(function: Any) -> Any:
    """Return what is equal to itself while `function` lives and to nothing else, and does not keep it alive."""
    try:
        found = weakref.ref(function)
        hash(found)
        return found
    except TypeError:
        return None if function is None else id(function)


def base_model_of(model: Any) -> Any:
    """Return the model that a PEFT model wraps; a model with adapters of its own (`has_adapters`) is that itself."""
    import peft

    if isinstance(model, peft.PeftMixedModel):  # it has no method that tells
        return model.base_model.model
    return model.get_base_model() if isinstance(model, peft.PeftModel) else model


def has_adapters(model: Any) -> bool:
    """Whether `model` has adapters in it: by transformers' `add_adapter`, or by PEFT, which may wrap it besides."""
    # An empty dictionary stays where the last adapter was deleted, on transformers below 4.57.
    return bool(vars(model).get("peft_config"))


def base_layer_of(layer: Any) -> Any:
    """Return the layer that an adapter's wraps; None where it wraps none, as a saved module's wrapper.

    Not by attribute: that wrapper asks the module that it stands for, and raises while it has no active adapter
    (peft 0.16 to 0.18).
    """
    return vars(layer)["_modules"].get("base_layer")


def is_compiled(module: Any) -> bool:
    """Whether torch.compile has made a graph of `module`."""
    # Module.compile() sets _compiled_call_impl on the instance; torch.compile(module) wraps it; the idiom of
    # transformers' documentation is `model.forward = torch.compile(model.forward)`.
    state: Mapping[str, Any] = vars(module)
    if state.get("_compiled_call_impl") is not None or type(module).__name__ == "OptimizedModule":
        return True
    return "forward" in state and hasattr(state["forward"], "_torchdynamo_orig_callable")
