"""One call's adapter names, checked against the model: immutable, and gone when the call ends."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Dict, FrozenSet, List, Optional, Sequence, Tuple

import torch
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from shim import graphs
from shim.errors import AdapterNamesError, RefusedError, UnknownAdapterError
from shim.kernels.attention import at_rest, check_attention, is_attention
from shim.modules import Changes, Found, Layers, changes_of, is_compiled, layer_kinds, layers_in_evaluation, walk
from shim.selection import BASE, Selection

# The methods whose layers ask for their adapter when they run, shown by tests/shim/test_methods.py. Others choose
# at the model: ADAPTION_PROMPT and SHADOW rewire it, XLORA and POLY route in it.
CHOSEN_IN_LAYERS: FrozenSet[str] = frozenset(
    "ADALORA ADAMSS BEFT BOFT BONE C3A DEFT DELORA FOURIERFT FROD GLORA GRALORA HIRA HRA IA3 LILY LN_TUNING LOHA "
    "LOKR LORA MISS OFT OSF PEANUT PSOFT PVERA RANDLORA ROAD SHIRA SUPERTUNING TINYLORA TRAINABLE_TOKENS UNILORA "
    "VBLORA VERA WAVEFT".split()
)
# Prompt learning: the model asks itself which adapter is active, shown by tests/shim/test_prompts.py.
CHOSEN_AT_THE_MODEL: FrozenSet[str] = frozenset(
    "CARTRIDGE CPT MULTITASK_PROMPT_TUNING PREFIX_TUNING PROMPT_TUNING P_TUNING".split()
)
# Those whose layers treat the rows of a batch together, so that they can be run on whole samples only.
NOT_ROW_WISE: FrozenSet[str] = frozenset({"LILY"})


@dataclass(frozen=True)
class Group:
    """The rows of a batch that use one adapter, in batch order."""

    adapter: str
    rows: Tuple[int, ...]


@dataclass(frozen=True)
class MixedBatch:
    """The adapter of every sample of one call on `model`."""

    model: Any
    names: Tuple[str, ...]
    groups: Tuple[Group, ...]
    layers: Layers
    in_evaluation: Optional[Tuple[str, ...]] = None
    """For a model in training mode, its modules that are not; None for one in evaluation mode."""
    is_compiled: bool = False
    """Whether torch.compile has made graphs of a part of the model, or of all of it."""
    changes: Changes = ()
    """The hooks and the forwards of somebody else's on its modules, on which what rows there are hangs, too."""

    @property
    def is_training(self) -> bool:
        """Whether the model is in training mode."""
        return self.in_evaluation is not None

    def selection(self, adapter: str) -> Selection:
        """Return what the layers of the model should see while they run `adapter`."""
        held = {id(layer): holds(layer, adapter) for _, layer in self.layers}
        compiled = graphs.Graphs.NONE if self.is_compiled else graphs.Graphs.NO_MATTER
        trains = self.is_training and torch.is_grad_enabled()
        return Selection(self.model, adapter, held, trains=trains, graphs=compiled)


def resolve(model: Any, adapter_names: Any) -> MixedBatch:
    """Check `adapter_names` against `model` and return the batch.

    Raises:
        AdapterNamesError: not a list or tuple of names, or empty.
        UnknownAdapterError: a name that is not loaded (contract F1).
        RefusedError: a state in which no mixed batch can be exact (contract F4).
    """
    names = _names(adapter_names)
    _check_loaded(model, names)
    _check_methods(model, names)
    known = layers_in_evaluation(model, set(names))
    in_evaluation, compiled = None, False
    if known is not None:
        layers, changes = known
    else:
        modules = list(walk(model, set(names)))
        compiled = _is_compiled(modules)
        if model.training:
            in_evaluation = tuple(found.name for found in modules if not found.module.training)
            if len(set(names)) > 1:
                _check_statistics(modules)
        else:
            _check_evaluation_mode(modules)
        layers = tuple((found.name, found.module) for found in modules if found.is_layer)
        changes = changes_of(modules)
    _check_held(model, names, layers)
    _check_state(model, names, layers)
    rows: Dict[str, List[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    groups = tuple(Group(name, tuple(r)) for name, r in rows.items())
    return MixedBatch(model, names, groups, layers, in_evaluation, compiled, changes)


def by_row(batch: MixedBatch) -> MixedBatch:
    """Return `batch` with a group of its own for every row, two rows of one adapter apart too."""
    return replace(batch, groups=tuple(Group(name, (row,)) for row, name in enumerate(batch.names)))


def is_row_wise(config: Any) -> bool:
    """Whether the layers of an adapter with `config` treat each row of their input by itself.

    Not so aLoRA (each sample's invocation starts at another token) and Arrow (it routes between adapters).
    """
    special = ("alora_invocation_tokens", "arrow_config")
    return method_of(config) not in NOT_ROW_WISE and all(getattr(config, name, None) is None for name in special)


def holds(layer: Any, adapter: str) -> bool:
    """Tell whether `layer` has weights of its own for `adapter`."""
    if adapter == BASE:
        return False
    # Breakpoint: huggingface/peft#2376, peft 0.15.0: a wrapper for trainable tokens holds what its inner layer does.
    inner = vars(layer)["_modules"].get("token_adapter")
    if inner is not None:
        return holds(inner, adapter)
    if hasattr(type(layer), "adapter_layer_names"):  # asked of the class: a wrapper looks up its module for the rest
        # Not through upstream's listers, which gather the names of every adapter that is loaded.
        # The modules come first, by the dictionary that torch keeps them in: this is asked at every layer call.
        modules = vars(layer)["_modules"]
        if any(name in modules and adapter in modules[name]._modules for name in layer.adapter_layer_names):
            return True
        names = (*layer.adapter_layer_names, *getattr(layer, "other_param_names", ()))
        return any(adapter in held for held in (getattr(layer, name, ()) for name in names) if hasattr(held, "keys"))
    # Breakpoint: huggingface/peft#2376, peft 0.15.0: wrappers can list their adapters.
    for lister in ("_all_available_adapter_names", "_get_available_adapters"):
        if hasattr(type(layer), lister):
            return adapter in getattr(layer, lister)()
    return adapter in layer.modules_to_save


def missing(layer: Any, adapters: Sequence[str]) -> Tuple[str, ...]:
    """Return those of `adapters` that `layer` has no weights of its own for: `holds`, for many at once."""
    left = list(adapters)
    modules = vars(layer)["_modules"]
    for name in getattr(type(layer), "adapter_layer_names", ()):
        if left and name in modules:
            held = modules[name]._modules
            left = [adapter for adapter in left if adapter not in held]
    return tuple(adapter for adapter in left if not holds(layer, adapter))


def _names(adapter_names: Any) -> Tuple[str, ...]:
    if not isinstance(adapter_names, (list, tuple)):
        raise AdapterNamesError(
            f"adapter_names is {type(adapter_names).__name__} {adapter_names!r}, but should be a list of "
            'adapter names, one per sample, such as ["fr", "__base__"]'
        )
    wrong = [name for name in adapter_names if not isinstance(name, str)]
    if wrong:
        raise AdapterNamesError(
            f'adapter_names holds {wrong[0]!r}, but should hold strings only; use "__base__" for a sample '
            "without an adapter"
        )
    if not adapter_names:
        raise AdapterNamesError("adapter_names is empty, but should hold one name per sample")
    return tuple(adapter_names)


def _check_loaded(model: Any, names: Tuple[str, ...]) -> None:
    loaded = set(model.peft_config)
    unknown = sorted(set(names) - loaded - {BASE})
    if unknown:
        raise UnknownAdapterError(
            f"adapter_names has non-existing adapter(s) {', '.join(map(repr, unknown))}, but should name those "
            f'loaded: {", ".join(map(repr, sorted(loaded)))}, or "__base__". Load with model.load_adapter(path, '
            "adapter_name) first"
        )


def _check_methods(model: Any, names: Tuple[str, ...]) -> None:
    for adapter in sorted(set(names) - {BASE}):
        reason = _unsupported(model.peft_config[adapter])
        if reason is not None:
            raise RefusedError(f"adapter {adapter!r} {reason}. Run its rows in a call of their own instead")


def _check_held(model: Any, names: Tuple[str, ...], layers: Layers) -> None:
    """Check that a layer holds each adapter but prompts, which else nobody would heed.

    Raises:
        RefusedError: none does.
    """
    # What was merged is in the base's weights, too. Else a call does not pay for adapters that it does not name.
    wanted = set(model.peft_config) if BASE in names and not layers else set(names) - {BASE}
    for adapter in sorted(wanted):
        in_layers = method_of(model.peft_config[adapter]) in CHOSEN_IN_LAYERS
        if in_layers and not any(holds(layer, adapter) for _, layer in layers):
            raise RefusedError(
                f"adapter {adapter!r} is loaded, but no layer of the model holds it, as after merge_and_unload() or "
                "unload(): its rows would be those of whatever the model is now. Load the adapters on the base model "
                "anew, or call it without adapter_names"
            )


def _is_compiled(modules: List[Found]) -> bool:
    """Whether torch.compile has made a graph of one of the modules.

    Raises:
        RefusedError: one has, on a torch whose graphs would be wrong.
    """
    compiled = [found.name for found in modules if is_compiled(found.module)]
    if compiled and not graphs.can_serve():
        raise RefusedError(
            f"{compiled[0] or 'the model'} is compiled (torch.compile), and its graph keeps the adapter that it "
            f"was traced with on torch {torch.__version__}. Pass the uncompiled model for mixed batches, or use "
            "torch 2.6 or newer"
        )
    return bool(compiled)


def _check_state(model: Any, names: Tuple[str, ...], layers: Layers) -> None:
    tuner_layer = layer_kinds()[0]
    if any(isinstance(layer, tuner_layer) and layer.merged for _, layer in layers):
        with at_rest(layer for _, layer in layers):  # not while another thread runs PEFT's attention, which merges
            merged = [found for found in layers if isinstance(found[1], tuner_layer) and found[1].merged]
        if merged:
            name, layer = merged[0]
            raise RefusedError(
                f"Cannot pass `adapter_names` when there are merged adapters: {name} holds "
                f"{list(layer.merged_adapters)} in its base weights, so no other row can be exact. Call "
                "model.unmerge_adapter() first, or unmerge() of each such layer"
            )
    for name, layer in layers:
        if is_attention(layer) and any(holds(layer, adapter) for adapter in names):
            check_attention(name, layer, model.get_submodule(name.rpartition(".")[0]))


def _check_evaluation_mode(modules: List[Found]) -> None:
    """Refuse a module in training mode, but for what PEFT adds in that mode to a model in evaluation mode."""
    for found in modules:
        module = found.module
        if not module.training:
            continue
        is_random = getattr(module, "p", 0) > 0 if "Dropout" in type(module).__name__ else False
        # Not by attribute: a saved module's wrapper without an active adapter raises IndexError (peft 0.16 to 0.18).
        if not found.inside or is_random or "running_mean" in vars(module)["_buffers"]:
            raise RefusedError(
                f"Cannot pass `adapter_names` when the model is in evaluation mode, but {found.name} in training mode: "
                "its dropout or batch statistics would be in the answer. Call model.eval(), or model.train() to train"
            )


def _check_statistics(modules: List[Found]) -> None:
    """Check that no module normalises by the statistics of the batch, nor keeps running ones.

    Raises:
        RefusedError: one does: a row would depend on the other adapters' rows.
    """
    for found in modules:
        module: Any = found.module
        if not module.training or not isinstance(module, _NormBase):
            continue
        if isinstance(module, _BatchNorm) or module.track_running_stats:
            raise RefusedError(
                f"{found.name} ({type(module).__name__}) takes its statistics from the batch in training mode, so that "
                "each adapter's rows would depend on the others'. Leave it in evaluation mode, as is usual over a "
                "frozen base: after model.train(), call .eval() on such modules"
            )


def method_of(config: Any) -> str:
    """Return the method of an adapter's configuration, as PEFT spells it: `LORA`, `IA3`, ..."""
    return str(getattr(config.peft_type, "value", config.peft_type))


def _unsupported(config: Any) -> Optional[str]:
    """Why rows of an adapter with `config` cannot be chosen layer by layer, or None where they can."""
    method = method_of(config)
    if method not in CHOSEN_IN_LAYERS | CHOSEN_AT_THE_MODEL:
        return f"is of the method {method}, which has not been shown to choose its adapter where a call can choose it"
    return None
