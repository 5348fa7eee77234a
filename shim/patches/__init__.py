"""Every upstream defect that the shim mends, in the order in which patches are applied."""

from __future__ import annotations

from typing import Tuple

from shim.patch import Patch


def catalogue() -> Tuple[Patch, ...]:
    """Return the patches, each of which may rely on those before it."""
    from shim.patches import adapter_names_per_call

    return (adapter_names_per_call.PATCH,)
