"""A model under a stage's adapters: two of them, strong and unlike each other, and the base."""

from __future__ import annotations

import copy
import warnings
import zlib
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Sequence

from conformance.scenarios import BASE

ADAPTERS = ("ann", "ben")
RANK = 2
STRENGTH = 0.5
"""The size of what an adapter adds to a layer, relative to what the layer gives."""


class CannotAdapt(Exception):
    """PEFT itself cannot put these adapters on the model, or run it under one of them."""


def with_adapters(model: Any, modules: Sequence[str], parameters: Sequence[str]) -> Any:
    """Return a PEFT model of a copy of `model` with the two adapters.

    Raises:
        CannotAdapt: PEFT refuses.
    """
    import peft

    fields: Dict[str, Any] = {"r": RANK, "lora_alpha": RANK, "target_modules": list(modules)}
    if parameters:
        fields["target_parameters"] = list(parameters)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            first, *others = ADAPTERS
            adapted = peft.get_peft_model(_copied(model), peft.LoraConfig(**fields), adapter_name=first)
            for name in others:
                adapted.add_adapter(name, peft.LoraConfig(**fields))
    except Exception as error:
        raise CannotAdapt(f"PEFT refuses these layers: {type(error).__name__}: {error}") from error
    _fill(adapted, next(iter(model.parameters())).dtype)
    return adapted.eval().requires_grad_(False)


def _copied(model: Any) -> Any:
    """Return a copy that can be asked for its input embeddings, as PEFT asks: some models know of none and raise."""
    import torch

    copied = copy.deepcopy(model)
    try:
        copied.get_input_embeddings()
    except (NotImplementedError, AttributeError):
        copied.get_input_embeddings = torch.nn.Module
    return copied


@contextmanager
def under(adapted: Any, adapter: str) -> Iterator[None]:
    """Make `adapter` the only one that acts within the block; none for `__base__`."""
    if adapter == BASE:
        with adapted.disable_adapter():
            yield
        return
    adapted.set_adapter(adapter)
    yield


def _fill(adapted: Any, dtype: Any) -> None:
    """Give every adapter weight a value that its path decides, so that it adds STRENGTH times what its layer gives."""
    import torch

    for path, parameter in adapted.named_parameters():
        parts: List[str] = path.split(".")
        kind = next((part for part in parts if part.startswith("lora_")), None)
        if kind is None:
            continue
        generator = torch.Generator().manual_seed(zlib.crc32(path.encode()))
        values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        if kind == "lora_embedding_A":
            spread = 1.0
        elif kind.endswith("A"):
            spread = float(parameter[0].numel()) ** -0.5
        else:
            spread = STRENGTH * RANK**-0.5
        parameter.data = (spread * values).to(dtype)
