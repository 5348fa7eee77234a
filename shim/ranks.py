"""The processes that share one model's weights: what one of them runs all must run, or the others wait for ever."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, List, Tuple, Type, TypeVar

import torch

from shim.batch import MixedBatch
from shim.errors import RefusedError, ShimError, Unroutable
from shim.modules import layer_kinds
from shim.routing.inputs import Inputs
from shim.selection import BASE

Result = TypeVar("Result")


@dataclass(frozen=True)
class Ranks:
    """The ranks of one group, each with a part of every weight.

    by_data: each has rows of its own and gathers weights when a block runs (FSDP2), so that all must run as many
    forwards. Else all run the same rows, each a part of every product (tensor parallel).
    """

    group: Any
    by_data: bool

    def everyone(self, said: Any) -> List[Any]:
        """Return what each rank says, in their order; every rank must come here."""
        found = [None] * torch.distributed.get_world_size(self.group)
        torch.distributed.all_gather_object(found, said, group=self.group)
        return found

    def in_step(self, function: Callable[[], Result], *, errors: Tuple[Type[Exception], ...] = (ShimError,)) -> Result:
        """Return what `function` returns, when it has returned on every rank.

        Args:
            errors: what ends the call on all ranks. Others are for what may fail in the midst of a forward, where the
                ranks cannot be told.

        Raises:
            RefusedError: it was refused on this rank or on another; or this rank's own error.
        """
        error: Any = None
        try:
            result = function()
        except Unroutable as reason:
            error = RefusedError(
                f"one pass cannot be proven exact: {reason}. A split by adapter runs another number of forwards on "
                "each rank of a sharded model, so that some would wait for ever. Run one adapter a call"
            )
        except errors as raised:
            error = raised
        said = self.everyone(None if error is None else f"{type(error).__name__}: {error}")
        if error is not None:
            raise error
        for rank, text in enumerate(said):
            if text is not None:
                raise RefusedError(f"rank {rank} of those that share this model's weights was refused ({text})")
        return result

    def check_uncompiled(self, batch: MixedBatch) -> None:
        """Check that nothing of the model is compiled, whose graphs have not been shown to keep the ranks in step.

        Raises:
            RefusedError: something is.
        """
        if batch.is_compiled:
            raise RefusedError(
                "the model is both compiled (torch.compile) and sharded over ranks, under which no mixed batch has "
                "been shown to be exact. Pass the uncompiled model, or run one adapter a call without names"
            )

    def expect_alike(self, batch: MixedBatch, inputs: Inputs) -> None:
        """Check what must be the same on all ranks.

        Raises:
            RefusedError: the rows under tensor parallelism; the adapters that train where gradients are reduced by
                their places, one adapter's with another's.
        """
        if not self.by_data:
            shapes = sorted((path, tuple(tensor.shape)) for path, tensor in inputs.tensors().items())
            _expect_same(
                self.everyone((batch.names, shapes)), "of one tensor parallel model", "adapter_names and inputs"
            )
        elif batch.is_training and torch.is_grad_enabled():
            adapters = sorted({name for name in batch.names if name != BASE})
            _expect_same(self.everyone(adapters), "that train a fully sharded model", "adapters, in any rows")


def _expect_same(said: List[Any], of: str, what: str) -> None:
    if any(one != said[0] for one in said):
        raise RefusedError(f"the ranks {of} were given {said}, but should all be given the same {what}")


def ranks_of(model: Any) -> Any:
    """Return the `Ranks` that share the weights of `model`; None where each rank runs by itself (DDP, one process).

    Raises:
        RefusedError: the weights are shared in a way in which no mixed batch has been shown to be exact.
    """
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return None
    meshes: List[Any] = []
    units = ""
    for name, module in model.named_modules():
        _check_known_sharding(name, module)
        if _is_unit(module):
            units = units or name or "the model"
        mesh = next((one.device_mesh for one in module._parameters.values() if hasattr(one, "device_mesh")), None)
        if mesh is not None and mesh not in meshes:
            meshes.append(mesh)
    if not meshes:
        # A model that is one unit was gathered before this forward, which gathers nothing more.
        if units and model.training and torch.is_grad_enabled():
            raise RefusedError(
                "the model is one unit of fully_shard, whose gradients are reduced by their places, so that one "
                "adapter's could meet another's unseen. Call fully_shard on its blocks first"
            )
        return None
    if len(meshes) > 1 or meshes[0].ndim > 1:
        raise RefusedError(
            f"the weights lie on {meshes}, but a mixed batch has been shown to be exact on one mesh of one dimension "
            "only. Shard along one, or run one adapter a call without names"
        )
    if units:
        _check_units(model)
    return Ranks(meshes[0].get_group(), by_data=bool(units))


def _is_unit(module: Any) -> bool:
    """Whether `fully_shard` was called on `module`: it puts a class of its own before the module's."""
    return _is_a(module, "FSDPModule")


def _is_a(module: Any, name: str) -> bool:
    """Whether `module` is of a class of this name, which some torch lacks, or of one derived from it."""
    return any(cls.__name__ == name for cls in type(module).__mro__)


def _check_known_sharding(name: str, module: Any) -> None:
    """Check that `module` is not sharded by a library whose ranks a mixed batch has not been shown to keep in step.

    Raises:
        RefusedError: it is.
    """
    kind = ""
    if _is_a(module, "FullyShardedDataParallel"):
        kind = "FullyShardedDataParallel"
    elif any(hasattr(parameter, "ds_id") for parameter in module._parameters.values()):
        kind = "DeepSpeed ZeRO-3"
    if kind:
        raise RefusedError(
            f"{name or 'the model'} is sharded by {kind}, whose ranks wait for each other at every layer, and under "
            "which no mixed batch has been shown to be exact. Shard by torch's fully_shard, or run one adapter a call "
            "without names"
        )


def _check_units(model: Any) -> None:
    """Check that no unit lies in an adapted layer, which runs its parts as often as it has adapters.

    Raises:
        RefusedError: one does: the ranks would gather it other numbers of times.
    """
    for name, layer in model.named_modules():
        if isinstance(layer, layer_kinds()):
            for path, module in layer.named_modules():
                if path and _is_unit(module):
                    raise RefusedError(
                        f"fully_shard was called on {name}.{path}, inside an adapted layer, which runs it once for "
                        "each adapter of a rank's rows, so that some ranks would wait for ever. Call it on the block "
                        f"around {name}"
                    )
