"""The tensors of a model's output by path, and where a sample's rows are in them.

Written apart from the shim's own reading of outputs, so that one mistake cannot hide another.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Dict, Iterator, Optional, Tuple

Tensors = Dict[str, Any]


def tensors_of(output: Any) -> Tensors:
    """Return every tensor in `output` by path: whatever holds others is looked into, objects of any class too.

    Not into modules, classes and functions, which are no output of one call.
    """
    return dict(_walk(output, "", ()))


def _walk(value: Any, path: str, above: Tuple[Any, ...]) -> Iterator[Tuple[str, Any]]:
    import torch

    if isinstance(value, torch.Tensor):
        yield path or "output", value
    elif not any(value is one for one in above):
        for step, child in _children(value):
            yield from _walk(child, (path + step).lstrip("."), (*above, value))


def _children(value: Any) -> Iterator[Tuple[str, Any]]:
    """Yield what a value holds, each with the step of the path that leads there."""
    if isinstance(value, Mapping):
        yield from ((f".{key}", child) for key, child in value.items())
    elif isinstance(value, (list, tuple)):
        yield from ((f"[{index}]", child) for index, child in enumerate(value))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from ((f".{field.name}", getattr(value, field.name, None)) for field in dataclasses.fields(value))
    elif hasattr(value, "__dict__") and not callable(value) and not isinstance(value, ModuleType):
        yield from ((f".{name}", child) for name, child in vars(value).items())


class Place:
    """Where the rows of a sample are in one output tensor: a dimension, in blocks or in tiles."""

    def __init__(self, dim: int, blocks: bool) -> None:
        self.dim, self.blocks = dim, blocks

    def row(self, tensor: Any, sample: int, samples: int) -> Any:
        """Return the rows of `sample` in a `tensor` that holds `samples`."""
        if self.blocks:
            size = tensor.shape[self.dim] // samples
            return tensor.narrow(self.dim, sample * size, size)
        import torch

        index = torch.arange(sample, tensor.shape[self.dim], samples, device=tensor.device)
        return tensor.index_select(self.dim, index)


def row_dim(whole: Any, single: Any, samples: int) -> Optional[int]:
    """Return the dimension that holds the samples, from a run of all of them and of one.

    None where there is none, or where several dimensions shrink: the tensor mixes samples.
    """
    if whole.dim() != single.dim():
        return None
    dims = [d for d in range(whole.dim()) if whole.shape[d] != single.shape[d]]
    if len(dims) == 1 and whole.shape[dims[0]] == samples * single.shape[dims[0]]:
        return dims[0]
    return None
