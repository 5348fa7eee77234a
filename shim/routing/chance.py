"""Run a model in training mode without chance, so that a batch and its parts can be compared: nothing drops out."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Iterator

import torch

from shim.routing.mode import ThreadedDispatchMode
from shim.routing.operations import operation

_DROPOUTS = frozenset("dropout feature_dropout alpha_dropout feature_alpha_dropout native_dropout".split())
_DRAWS = frozenset(
    "bernoulli cauchy exponential geometric log_normal normal rand rand_like randn randn_like uniform".split()
)


@contextmanager
def without_chance(training: bool) -> Iterator[None]:
    """Let every number drawn on this thread be the same one, and no value drop out, where `training`.

    What draws outside of torch (numpy, Python) still does.
    """
    if not training:
        yield
        return
    with _WithoutChance():  # type: ignore[no-untyped-call]
        yield


class _WithoutChance(ThreadedDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = operation(func).name
        if name in _DROPOUTS:
            kept = args[0]
            return (kept, torch.ones_like(kept, dtype=torch.bool)) if name == "native_dropout" else kept
        names = [argument.name for argument in func._schema.arguments]
        if "dropout_p" in names:  # of a fused attention
            place = names.index("dropout_p")
            if place < len(args):
                args = (*args[:place], 0.0, *args[place + 1 :])
            kwargs.pop("dropout_p", None)
        output = func(*args, **kwargs)
        if name in _DRAWS:
            output.fill_(0.5)
        return output
