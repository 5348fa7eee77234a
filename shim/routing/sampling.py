"""Each sample of a generate that samples draws from a generator of its own, so that the other rows do not matter.

transformers draws all rows of a step from torch's one generator, so a row's tokens hang on where in which batch it
stands. With `generators`, a sample's tokens are those of its row alone after `torch.manual_seed(seed)`.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Iterator, Sequence, Tuple

import torch
from torch.overrides import TorchFunctionMode

from shim.errors import AdapterNamesError, RefusedError

Generators = Tuple[torch.Generator, ...]

_OWN: ContextVar[Generators] = ContextVar("shim_row_generators", default=())


def check_generators(given: Any, samples: int, device: Any) -> Generators:
    """Return the generator of each sample, made of its seed where that is given.

    Raises:
        AdapterNamesError: there is not one for each sample, or two samples share one.
    """
    values = list(given) if isinstance(given, (list, tuple)) else []
    wrong = [value for value in values if isinstance(value, bool) or not isinstance(value, (int, torch.Generator))]
    if len(values) != samples or wrong:
        raise AdapterNamesError(
            f"generators is {given!r}, but should be a list of {samples} torch.Generators or seeds, one per sample"
        )
    own = [value for value in values if isinstance(value, torch.Generator)]
    if len({id(generator) for generator in own}) < len(own):
        raise AdapterNamesError(
            "generators holds the same torch.Generator twice, but should hold one for each sample: two that draw from "
            "one would change each other's tokens. Make one for each, or pass seeds"
        )
    return tuple(
        value if isinstance(value, torch.Generator) else torch.Generator(device).manual_seed(value) for value in values
    )


def own_generators() -> Generators:
    """Return the generators of the samples that the running call generates, () where it has none."""
    return _OWN.get()


@contextmanager
def drawing_from(generators: Generators) -> Iterator[None]:
    """Let every draw inside the block be each sample's own; () for torch's one generator."""
    if not generators:
        yield
        return
    token = _OWN.set(generators)
    try:
        with _DrawsByRow():
            yield
    finally:
        _OWN.reset(token)


@contextmanager
def generating(samples: Sequence[int]) -> Iterator[None]:
    """Let the block generate these of the call's samples alone."""
    generators = own_generators()
    token = _OWN.set(tuple(generators[sample] for sample in samples) if generators else ())
    try:
        yield
    finally:
        _OWN.reset(token)


class _DrawsByRow(TorchFunctionMode):
    """Draws the rows of each sample from its generator."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        generators = own_generators() if func is torch.multinomial else ()
        if not generators or kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        return _multinomial(generators, *args, **kwargs)


def _multinomial(generators: Generators, input: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """As `torch.multinomial`; `input` holds the rows of each sample together, as transformers expands them.

    Raises:
        RefusedError: the rows do not divide by sample.
    """
    rows, samples = len(input), len(generators)
    if rows % samples:
        raise RefusedError(
            f"generate draws tokens for {rows} rows in torch.multinomial, but should for as many for each of {samples} "
            "samples: whose they are cannot be told. Leave generators out, or run one sample a call"
        )
    kwargs.pop("generator", None)
    parts = zip(input.split(rows // samples), generators)
    return torch.cat([torch.multinomial(part, *args, generator=own, **kwargs) for part, own in parts])
