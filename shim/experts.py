"""Experts' parametrizations, whose values torch keeps while anybody in the process has its cache on (S3)."""

from __future__ import annotations

import functools
from contextlib import contextmanager
from typing import Any, Callable, Iterator


def computed_for_each_adapter(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return `original`, `ParamWrapper._activate_lora`, within which the weights are those of its own adapters.

    PEFT turns `parametrize.cached()` on for its length, and relies on its end to empty the cache. While another thread,
    or the caller, has it on too, the next adapter would find the weights of the one before.
    """

    @functools.wraps(original)
    @contextmanager
    def activate(layer: Any, *args: Any, **kwargs: Any) -> Iterator[None]:
        _forget(layer)
        try:
            with original(layer, *args, **kwargs):
                yield
        finally:
            _forget(layer)

    return activate


def _forget(layer: Any) -> None:
    from torch.nn.utils import parametrize

    held, module = parametrize._cache, id(layer.get_base_layer())
    for key in [key for key in list(held) if key[0] == module]:
        held.pop(key, None)
