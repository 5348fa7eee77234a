"""Mixed-adapter batches in PEFT, exact or refused, on every version.

    import shim
    shim.install()
    model(**inputs, adapter_names=["fr", "de", "__base__", "fr"])

Importing this module imports neither torch nor peft; `install` does.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Dict, Mapping, Optional, Sequence, Union

from shim.collator import DataCollatorWithAdapterNames
from shim.errors import (
    AdapterNamesError,
    MixedBatchError,
    PatchError,
    PlanError,
    RefusedError,
    ShimError,
    UnknownAdapterError,
)
from shim.install import PatchStatus, install, status, uninstall

if TYPE_CHECKING:
    from shim.routing.explain import Explanation

__all__ = [
    "AdapterNamesError",
    "DataCollatorWithAdapterNames",
    "MixedBatchError",
    "PatchError",
    "PatchStatus",
    "PlanError",
    "RefusedError",
    "ShimError",
    "UnknownAdapterError",
    "explain",
    "install",
    "load_plans",
    "pack",
    "plan",
    "save_plans",
    "status",
    "uninstall",
]


def explain(
    model: Any,
    inputs: Mapping[str, Any],
    adapter_names: Sequence[str],
    *,
    owners: Optional[Mapping[str, Any]] = None,
) -> Explanation:
    """Return the route that `model(**inputs, adapter_names=adapter_names)` takes, and that of every layer.

    Printed, it names each adapted layer's rows ("dim 0, blocks of 4") and the operation that mixed samples, if
    any. Runs the base model where no plan is known yet, and leaves no trace.

    Args:
        inputs: the keyword arguments of the call, with samples along dim 0.
        adapter_names: one name per sample.
        owners: for inputs that are not one entry per sample: the sample of each index along dim 0, or a tensor of them
            that broadcasts to the input, where samples lie along another dimension. The call itself takes it too.

    Raises:
        UnknownAdapterError, AdapterNamesError: as the call itself would.
        RefusedError: no batch of these names can be exact on this model as it is. What the route refuses is not
            raised, but explained.
    """
    from shim.routing.explain import explain as explained

    return explained(model, inputs, adapter_names, owners=owners)


def plan(
    model: Any,
    inputs: Mapping[str, Any],
    *,
    batch_sizes: Optional[Sequence[int]] = None,
    owners: Optional[Mapping[str, Any]] = None,
) -> Dict[int, Explanation]:
    """Make the plans of `model(**inputs)` now, so that no request pays for one, and explain each by batch size.

    A plan is the same for all names. Inputs of other lengths are served once two lengths were planned.

    Args:
        inputs: an example: keyword arguments, with samples along dim 0.
        batch_sizes: numbers of samples to plan for, made of those of `inputs`; as many as those by default.
        owners: as in `explain`; then for the one batch size that they are of.

    Raises:
        PlanError: `inputs` hold no sample, or `batch_sizes` are others than that of `owners`.
        AdapterNamesError, RefusedError: as `explain` would.
    """
    from shim.routing.ahead import plan_ahead

    return plan_ahead(model, inputs, batch_sizes, owners)


def save_plans(model: Any, path: Union[str, os.PathLike[str]]) -> int:
    """Write the plans of `model` to a JSON file, to be kept beside its checkpoint, and return their number."""
    from shim.routing.ahead import save

    return save(model, path)


def load_plans(model: Any, path: Union[str, os.PathLike[str]]) -> int:
    """Give `model` the plans in a file that `save_plans` wrote, and return their number.

    Raises:
        PlanError: they are for another model, or were made with other versions, or the file is no such file.
    """
    from shim.routing.ahead import load

    return load(model, path)


def pack(model: Any) -> int:
    """Lay the LoRA weights of each layer side by side in one memory, which mixed batches read in place, uncopied.

    The parameters stay the objects they are, with the values they have; only where their memory lies is new. Training,
    saving, merging and deleting go on as before. To be called once adapters are loaded and the model is on its device,
    and again after adapters came, went or moved (`.to()`): what lies right is left as it is. Without it, or after
    something broke it, batches are as right, and their weights are copied. `torch.save` of one packed parameter writes
    its neighbours too; safetensors, and so `save_pretrained`, does not.

    Returns:
        How many bytes were moved.

    Raises:
        RefusedError: weights are offloaded, shared with other processes, or views of memory that is not their own.
    """
    from shim.packing import pack as packed

    return packed(model)
