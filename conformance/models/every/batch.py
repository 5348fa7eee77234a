"""A batch that can be taken apart: which rows of which tensor are whose, packed tensors included."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Dict, List, Sequence


@dataclass
class Batch:
    """The keyword arguments of one forward pass.

    Dimension 0 of every tensor counts the samples, but for `packed` ones, whose samples have so many rows each, and
    `shared` arguments, which belong to all. A batch of any of the samples, in any order, is `of` them.
    """

    samples: int
    tensors: Dict[str, Any] = field(default_factory=dict)
    packed: Dict[str, List[int]] = field(default_factory=dict)
    along: Dict[str, int] = field(default_factory=dict)
    """The dimension of packed tensors that are not packed along dimension 0."""
    shared: Dict[str, Any] = field(default_factory=dict)

    @property
    def arguments(self) -> Dict[str, Any]:
        """What the model is called with."""
        return {**self.tensors, **self.shared}

    @property
    def owners(self) -> Dict[str, Any]:
        """The sample of each index of a packed tensor along its packed dimension, in a shape that broadcasts to it."""
        import torch

        found: Dict[str, Any] = {}
        for name, counts in self.packed.items():
            samples = [sample for sample, count in enumerate(counts) for _ in range(count)]
            shape = [1] * self.tensors[name].dim()
            shape[self.along.get(name, 0)] = len(samples)
            found[name] = torch.tensor(samples).view(shape)
        return found

    def of(self, samples: Sequence[int]) -> Batch:
        """Return the batch of these samples; one may be named several times."""
        import torch

        taken: Dict[str, Any] = {}
        packed: Dict[str, List[int]] = {}
        for name, tensor in self.tensors.items():
            if name in self.packed:
                dim = self.along.get(name, 0)
                parts = torch.split(tensor, self.packed[name], dim=dim)
                taken[name] = torch.cat([parts[sample] for sample in samples], dim=dim)
                packed[name] = [self.packed[name][sample] for sample in samples]
            else:
                taken[name] = tensor.index_select(0, torch.tensor(list(samples)))
        return replace(self, samples=len(samples), tensors=taken, packed=packed)

    def cast(self, dtype: Any) -> Batch:
        """Return the batch with floating-point tensors in `dtype`."""
        turned = {name: t.to(dtype) if t.is_floating_point() else t for name, t in self.tensors.items()}
        shared = {
            name: t.to(dtype) if hasattr(t, "is_floating_point") and t.is_floating_point() else t
            for name, t in self.shared.items()
        }
        return replace(self, tensors=turned, shared=shared)

    def add(self, name: str, parts: Sequence[Any]) -> None:
        """Pack one tensor per sample, of any number of rows, into the argument `name`."""
        import torch

        self.tensors[name] = torch.cat(list(parts))
        self.packed[name] = [len(part) for part in parts]
