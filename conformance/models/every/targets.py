"""What adapters may change in any model: the layers that PEFT has an adapter for, stage by stage."""

from __future__ import annotations

from typing import Any, List, Tuple


def linear_layers(model: Any) -> List[str]:
    """Return the paths of every Linear and of transformers' Conv1D, of subclasses too, which PEFT takes for them."""
    import torch
    from transformers.pytorch_utils import Conv1D

    # The output of torch's own attention never runs as a layer: its weight is read.
    unused = "NonDynamicallyQuantizableLinear"
    return [
        path
        for path, module in model.named_modules()
        if path and isinstance(module, (torch.nn.Linear, Conv1D)) and type(module).__name__ != unused
    ]


def embeddings(model: Any) -> List[str]:
    """Return the paths of embeddings that look ids up and do nothing else, or scale what they find."""
    import torch

    plain = torch.nn.Embedding.forward
    return [
        path
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.Embedding)
        and (type(module).forward is plain or "ScaledWord" in type(module).__name__)
    ]


def convolutions(model: Any) -> List[str]:
    """Return the paths of convolutions of one group."""
    import torch

    kinds = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
    return [path for path, module in model.named_modules() if isinstance(module, kinds) and module.groups == 1]


def expert_parameters(model: Any) -> List[str]:
    """Return the paths of parameters that hold a matrix for each expert."""
    return [
        f"{path}.{name}"
        for path, module in model.named_modules()
        if "expert" in type(module).__name__.lower()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.dim() == 3
    ]


def generates(model: Any) -> bool:
    """Whether the model is one that generates."""
    return hasattr(model, "generate") and hasattr(model, "can_generate") and bool(model.can_generate())


def layers(model: Any, stage: str) -> Tuple[List[str], List[str]]:
    """Return the layers that a stage adapts: those that PEFT always can, and those that only the stage adds."""
    linear = linear_layers(model)
    if stage == "linear_layers":
        return linear, []
    if stage == "generate":
        return (linear, []) if generates(model) else ([], [])
    if stage == "fused_experts":
        return (linear, []) if expert_parameters(model) else ([], [])
    added = embeddings(model) + convolutions(model)
    return (linear, added) if added else ([], [])
