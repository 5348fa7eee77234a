"""What a user names, as a model and the inputs of one batch: by a function, a class, a configuration or a folder."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Dict, Tuple

from conformance.selection import CannotLoad

SAMPLES, LENGTH = 6, 8

Made = Tuple[Any, Dict[str, Any]]


def made_by(spec: str) -> Made:
    """Return the model that `spec` names, and by argument the inputs of one batch.

    `package.module:name` is a function that returns (model, inputs), a model of transformers or a configuration; or it
    is such a class, of which a tiny random model is made. Anything else is the folder of a checkpoint. Inputs are a
    mapping by argument name; those that are not given are drawn by the model's configuration and the signature of its
    forward.

    Raises:
        CannotLoad: there is no such thing, it is something else, or no inputs can be drawn for it.
    """
    if Path(spec).is_dir():
        return _fed(spec, _from_folder(spec))
    made = _called(spec, _found(spec))
    if isinstance(made, (tuple, list)):
        return _model_and_inputs(spec, made)
    if _is(made, "PretrainedConfig"):
        made = _of_config(made)
    return _fed(spec, made)


def _model_and_inputs(spec: str, made: Any) -> Made:
    """Return the two things that a function returned, its inputs as a dict: a tokenizer's output is none."""
    import torch

    wanted = f"{spec} should return (model, inputs), the inputs a dict by argument name"
    if len(made) != 2:
        kinds = ", ".join(type(thing).__name__ for thing in made)
        raise CannotLoad(f"{wanted}, but returned {len(made)} things: {kinds}")
    model, inputs = made
    if not isinstance(model, torch.nn.Module):
        raise CannotLoad(f"{wanted}, but returned a {type(model).__name__} as model, which is no torch.nn.Module")
    if not isinstance(inputs, Mapping):
        raise CannotLoad(
            f"{wanted}, but returned them as a {type(inputs).__name__}. Name them as forward does: {{'x': tensor}}"
        )
    return model, dict(inputs)


def _found(spec: str) -> Any:
    module, _, name = spec.partition(":")
    here = os.getcwd()
    if not {here, ""}.intersection(sys.path):  # as of the console script; `python -m` has it there
        sys.path.insert(0, here)
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise CannotLoad(
            f"{spec!r} should be package.module:function, or the folder of a checkpoint, but: {error}"
        ) from error


def _called(spec: str, thing: Any) -> Any:
    from conformance.models.every.build import tiny_model
    from conformance.models.every.configs import tiny

    try:
        is_class: bool = inspect.isclass(thing)
        if is_class and _is_class(thing, "PretrainedConfig"):
            return tiny(thing)
        if is_class and _is_class(thing, "PreTrainedModel"):
            return tiny_model(thing, tiny(thing.config_class))
        return thing() if callable(thing) else thing
    except Exception as error:
        raise CannotLoad(f"{spec} should return (model, inputs), but {raised(error)}") from error


def raised(error: Exception) -> str:
    """Return in words that an error was raised, and where: in the user's own code, if it came by there."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = str(Path(__file__).parents[1])
    theirs = [frame for frame in frames if "site-packages" not in frame.filename and ours not in frame.filename]
    frame = (theirs or frames)[-1]
    return f"raised {type(error).__name__}: {error} [{frame.filename}:{frame.lineno}]"


def _of_config(config: Any) -> Any:
    """Return a random model of the class that `config` names, or else of the base class of its type."""
    import torch
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        architecture = _architecture(config)
        return transformers.AutoModel.from_config(config) if architecture is None else architecture(config)


def _architecture(config: Any) -> Any:
    """Return the class of transformers that `config` names; None where it names none."""
    import transformers

    return getattr(transformers, (getattr(config, "architectures", None) or [""])[0], None)


def _from_folder(folder: str) -> Any:
    import transformers

    if (Path(folder) / "adapter_config.json").exists():
        raise CannotLoad(
            f"{folder} holds an adapter of PEFT, but should a whole model: the checks put adapters of their own on it. "
            "Name its base model's folder"
        )
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        return (_architecture(config) or transformers.AutoModel).from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise CannotLoad(f"{folder} should hold a checkpoint of transformers, but: {error}") from error


def _fed(spec: str, model: Any) -> Made:
    """Return `model` with inputs drawn for it, which it runs on."""
    import torch

    from conformance.models.every.build import inputs
    from conformance.models.every.classes import BASE_PART, HEAD_PART, Entry

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not is_of_transformers(base):
        raise CannotLoad(f"{spec} should return (model, inputs), but returned {type(model).__name__}")
    part = BASE_PART if base.base_model is base else HEAD_PART
    try:
        batch = inputs(Entry(base.config.model_type, part, type(base).__name__), base, SAMPLES, LENGTH, 0)
        if batch.packed or batch.shared:
            raise LookupError(f"{sorted([*batch.packed, *batch.shared])} would not be one entry per sample")
        with torch.no_grad():
            base.eval()(**batch.cast(base.dtype).tensors)
    except Exception as error:
        raise CannotLoad(
            f"{spec} should return (model, inputs): no inputs could be drawn for {type(base).__name__} "
            f"({type(error).__name__}: {error})"
        ) from error
    return model, batch.tensors


def is_of_transformers(model: Any) -> bool:
    """Whether a model is one of transformers, and not a module around it."""
    return _is(model, "PreTrainedModel")


def _is(value: Any, name: str) -> bool:
    return _is_class(type(value), name)


def _is_class(cls: Any, name: str) -> bool:
    """Whether `cls` is of the class of transformers called `name`."""
    import transformers

    return issubclass(cls, getattr(transformers, name))
