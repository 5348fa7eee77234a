"""Prompt learning in a mixed batch: a model gives its rows virtual tokens of the one adapter that it has chosen.

Such a batch is split: each adapter's rows are a call of their own, in which the model finds that adapter active. Rows
of the base are the base model's, without virtual tokens. PEFT's generate, and its `disable_adapter()`, write methods on
the models for their length, where other threads find them: what runs here runs on copies, which nobody else sees.
"""

from __future__ import annotations

import functools
import types
from typing import Any, Callable, Optional

import torch

from shim.modules import base_model_of
from shim.routing.inputs import parameter_names
from shim.selection import BASE, selected_adapter

_TAKEN_BY_PEFT = ("task_ids",)
_WRITTEN = "prepare_inputs_for_generation"
"""The method that PEFT's generate writes on the base model, and `disable_adapter()` on the model."""


def is_chosen_at_the_model(config: Any) -> bool:
    """Whether an adapter with `config` acts on a model's inputs, and not in its layers."""
    return bool(config.is_prompt_learning)


def learns_prompts(model: Any) -> bool:
    """Whether an adapter of `model` acts on its inputs."""
    return any(map(is_chosen_at_the_model, list(model.peft_config.values())))


def method_of_model(model: Any, original: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return what a mixed call on `model` runs under each adapter that it selects.

    Args:
        original: PEFT's own function, unbound. name: the base model's method of the same use, `forward` or `generate`.
    """
    if not learns_prompts(model):
        return functools.partial(original, model)

    parameters = parameter_names(original)[1:]

    def call(*args: Any, **kwargs: Any) -> Any:
        adapter = selected_adapter()
        if adapter != BASE:
            return original(model if name == "forward" else _copy_with(model, adapter), *args, **kwargs)
        # By name, since the base model's parameters may have another order.
        named = {key: value for key, value in zip(parameters, args) if value is not None}
        given = {key: value for key, value in kwargs.items() if key not in _TAKEN_BY_PEFT}
        function = base_model_of(model) if name == "forward" else getattr(_copy_of_base(model), name)
        return function(*args[len(parameters) :], **named, **given)

    return call


def heeding_names(model: Any) -> Any:
    """Return `model`, or inside its `disable_adapter()`, where PEFT gives it the base's forward, one with its own."""
    forward = vars(model).get("forward")
    if forward is None or not learns_prompts(model) or forward != base_model_of(model).forward:
        return model
    copy = _copy(model)
    # Of the model itself, by which plans and the selection know it; the copy lends its hooks only.
    vars(copy)["forward"] = types.MethodType(type(model).forward, model)
    return copy


def _copy_with(model: Any, adapter: Optional[str]) -> Any:
    """Return a copy of a PEFT model around a copy of its base model, with `adapter` active."""
    copy = _copy(model)
    held = vars(copy)
    held.pop(_WRITTEN, None)
    held["active_adapter"] = adapter
    held["_modules"] = {**held["_modules"], "base_model": _copy_of_base(model)}
    return copy


def _copy_of_base(model: Any) -> Any:
    """Return a copy of the base model with its own methods, whatever PEFT has written on it for another call."""
    copy = _copy(base_model_of(model))
    vars(copy).pop(_WRITTEN, None)
    own = vars(model).get(f"base_model_{_WRITTEN}")
    if own is not None:
        vars(copy)[_WRITTEN] = own
    return copy


def _copy(module: torch.nn.Module) -> Any:
    """Return a module with the attributes, the hooks and the parts of `module`."""
    copy = object.__new__(type(module))
    vars(copy).update(vars(module))
    return copy
