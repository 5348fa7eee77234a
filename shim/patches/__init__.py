"""Every upstream defect that the shim mends, in the order in which patches are applied."""

from __future__ import annotations

from typing import Tuple

from shim.patch import Patch


def catalogue() -> Tuple[Patch, ...]:
    """Return the patches, each of which may rely on those before it."""
    from shim.patches import (
        adapter_names_per_call,
        compiled_generate,
        disabled_stay_disabled,
        failed_load,
        forward_hooks_with_kwargs,
        models_own_adapters,
        models_own_switching,
        pipeline_adapter_names,
        saved_modules_attributes,
        saved_modules_delete,
        saved_modules_switch,
        saved_modules_unload,
        weighted_dare,
        weighted_negative,
        weighted_rslora,
        weighted_svd,
    )

    return (
        forward_hooks_with_kwargs.PATCH,
        saved_modules_switch.PATCH,
        saved_modules_attributes.PATCH,
        saved_modules_delete.PATCH,
        saved_modules_unload.PATCH,
        disabled_stay_disabled.PATCH,
        adapter_names_per_call.PATCH,
        models_own_adapters.PATCH,
        models_own_switching.PATCH,
        failed_load.PATCH,
        pipeline_adapter_names.PATCH,
        compiled_generate.PATCH,
        weighted_svd.PATCH,
        weighted_negative.PATCH,
        weighted_rslora.PATCH,
        weighted_dare.PATCH,
    )
