"""Mixed-adapter batches in PEFT, exact or refused, on every version.

    import shim
    shim.install()
    model(**inputs, adapter_names=["fr", "de", "__base__", "fr"])

Importing this module imports neither torch nor peft; `install` does.
"""

from shim.errors import (
    AdapterNamesError,
    MixedBatchError,
    PatchError,
    RefusedError,
    ShimError,
    UnknownAdapterError,
)
from shim.install import PatchStatus, install, status, uninstall

__all__ = [
    "AdapterNamesError",
    "MixedBatchError",
    "PatchError",
    "PatchStatus",
    "RefusedError",
    "ShimError",
    "UnknownAdapterError",
    "install",
    "status",
    "uninstall",
]
