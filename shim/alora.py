"""aLoRA's hooks, which PEFT leaves on the layers where a call raises, so that the next one meets its offsets (S1)."""

from __future__ import annotations

import functools
from contextlib import contextmanager
from typing import Any, Callable, ContextManager, Iterator

from shim.modules import named_modules

_OFFSETS = "alora_offsets"
_FOR_BACKWARD = "_peft_gradient_checkpointing_forward_hooks"


def taken_off_after_failure(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return `original`, the `_enable_peft_forward_hooks` of a model, which takes off its hooks where a call raises.

    A call without offsets puts none on, and is upstream's own. Source: huggingface/peft#3475.
    """

    @functools.wraps(original)
    def enable(model: Any, *args: Any, **kwargs: Any) -> Any:
        context = original(model, *args, **kwargs)
        offsets = kwargs.get(_OFFSETS)
        return context if offsets is None else _taken_off(context, model, offsets)

    return enable


@contextmanager
def _taken_off(context: ContextManager[Any], model: Any, offsets: Any) -> Iterator[None]:
    try:
        with context:
            yield
    except BaseException:
        _take_off(model, offsets)
        raise


def _take_off(model: Any, offsets: Any) -> None:
    """Remove the hooks that hold these very `offsets`, a list that each call has of its own: no other thread's."""
    for _, module in named_modules(model):
        hooks = list(module._forward_pre_hooks.items())
        own = [key for key, hook in hooks if getattr(hook, "keywords", {}).get(_OFFSETS) is offsets]
        for key in own:
            module._forward_pre_hooks.pop(key, None)
            module._forward_pre_hooks_with_kwargs.pop(key, None)
        handles = vars(module).get(_FOR_BACKWARD) if own else None
        while handles:  # a checkpointed block's, which only a backward pass would take off
            handles.pop().remove()
