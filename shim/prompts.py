"""Prompt learning in a mixed batch: a model gives its rows virtual tokens of the one adapter that it has chosen.

Such a batch is split: each adapter's rows are a call of their own, in which the model finds that adapter active. Rows
of the base are the base model's, without virtual tokens.
"""

from __future__ import annotations

import functools
from typing import Any, Callable

from shim.modules import base_model_of
from shim.routing.inputs import parameter_names
from shim.selection import BASE, selected_adapter

_TAKEN_BY_PEFT = ("task_ids",)


def is_chosen_at_the_model(config: Any) -> bool:
    """Whether an adapter with `config` acts on a model's inputs, and not in its layers."""
    return bool(config.is_prompt_learning)


def method_of_model(model: Any, original: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return what a mixed call on `model` runs under each adapter that it selects.

    Args:
        original: PEFT's own function, unbound. name: the base model's method of the same use, `forward` or `generate`.
    """
    method = functools.partial(original, model)
    if not any(map(is_chosen_at_the_model, model.peft_config.values())):
        return method

    parameters = parameter_names(original)[1:]

    def call(*args: Any, **kwargs: Any) -> Any:
        if selected_adapter() != BASE:
            return method(*args, **kwargs)
        # By name, since the base model's parameters may have another order.
        named = {key: value for key, value in zip(parameters, args) if value is not None}
        given = {key: value for key, value in kwargs.items() if key not in _TAKEN_BY_PEFT}
        base = base_model_of(model)
        function = base if name == "forward" else getattr(base, name)
        return function(*args[len(parameters) :], **named, **given)

    return call
