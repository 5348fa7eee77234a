"""What a mixed call asks of a model in training mode (contract A4): each row as its adapter alone would train on it."""

from __future__ import annotations

import warnings
from typing import Any, Iterator, List

import torch

from shim.batch import MixedBatch, method_of
from shim.errors import RefusedError
from shim.recompute import remembers
from shim.selection import BASE


def check_training(batch: MixedBatch, *, generates: bool) -> None:
    """Check a call on a model in training mode, and warn of adapters that it will not train.

    Raises:
        RefusedError: rows would not train their adapters as they would alone, or the call is a `generate`.
    """
    if generates:
        raise RefusedError(
            "generate draws tokens through dropout when the model is in training mode. Call model.eval() first, and "
            "model.train() afterwards"
        )
    if len(batch.groups) > 1:
        _check_regularisers(batch)
    if torch.is_grad_enabled():
        if not remembers():
            raise RefusedError(
                f"torch {torch.__version__} recomputes checkpoints in a way that is not known here, so that a backward "
                "pass could forget the names. Train on another torch, or one adapter a call without names"
            )
        _check_data_parallel(batch)
        _warn_of_frozen(batch)


def _check_regularisers(batch: MixedBatch) -> None:
    """Check that no adapter's method adds to the loss something that is not of the batch's rows.

    Raises:
        RefusedError: AdaLoRA does, for the one adapter that it trains, whatever the rows.
    """
    for group in batch.groups:
        if group.adapter != BASE and method_of(batch.model.peft_config[group.adapter]) == "ADALORA":
            raise RefusedError(
                f"adapter {group.adapter!r} is of the method ADALORA, whose model adds a regulariser of one adapter "
                "to the loss of any batch. Train it in calls of its own"
            )


def _check_data_parallel(batch: MixedBatch) -> None:
    """Check that DistributedDataParallel will not wait for gradients of adapters that this rank's rows do not have.

    Raises:
        RefusedError: it would, for ever.
    """
    parallel = getattr(torch.nn.parallel.DistributedDataParallel, "_active_ddp_module", None)
    if parallel is None or all(module is not batch.model for module in parallel.modules()):
        return
    if parallel.find_unused_parameters and not getattr(parallel, "static_graph", False):
        return
    for adapter in batch.model.peft_config:
        if adapter not in batch.names and any(weight.requires_grad for weight in _weights(batch, adapter)):
            raise RefusedError(
                f"adapter {adapter!r} requires grad, but no row of this rank is under it, so that the other ranks "
                "would wait for its gradient for ever. Wrap the model by DistributedDataParallel(model, "
                "find_unused_parameters=True), without static_graph"
            )


def _warn_of_frozen(batch: MixedBatch) -> None:
    """Warn of adapters in a training batch none of whose weights requires grad: their rows will not train them.

    As torch has it, `requires_grad` decides what is trained, so a frozen adapter may stand in the batch on purpose
    (the reference of a preference loss). But PEFT lets only the active adapter require it, and forgetting to unfreeze
    the others would go unnoticed.
    """
    for group in batch.groups:
        if group.adapter != BASE and not any(weight.requires_grad for weight in _weights(batch, group.adapter)):
            warnings.warn(
                f"adapter {group.adapter!r} is in a training batch, but none of its weights requires grad, so that its "
                f"rows train nothing. To train it: {_way_to_train(batch)}. PEFT's set_adapter freezes all others",
                stacklevel=7,
            )


def _weights(batch: MixedBatch, adapter: str) -> Iterator[Any]:
    """Yield the parameters of `adapter`."""
    prompts = getattr(batch.model, "prompt_encoder", None)
    if isinstance(prompts, torch.nn.ModuleDict) and adapter in prompts:
        yield from prompts[adapter].parameters()
    for _, layer in batch.layers:
        for child in _held(layer):
            if adapter in child:
                held = child[adapter]
                yield from held.parameters() if isinstance(held, torch.nn.Module) else [held]


def _held(layer: Any) -> List[Any]:
    kinds = (torch.nn.ModuleDict, torch.nn.ParameterDict)
    return [child for child in vars(layer)["_modules"].values() if isinstance(child, kinds)]


def _way_to_train(batch: MixedBatch) -> str:
    names = [group.adapter for group in batch.groups if group.adapter != BASE]
    # Breakpoint: huggingface/peft#2807, peft 0.18.0: set_requires_grad.
    if hasattr(batch.model, "set_requires_grad"):
        return f"model.set_requires_grad({names})"
    return "set requires_grad on its parameters"
