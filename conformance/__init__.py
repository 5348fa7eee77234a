"""A conformance suite for mixed-adapter batches: what `adapter_names` must mean, shown on any installed PEFT.

    pytest --pyargs conformance        python -m conformance run

Importing this package imports neither torch nor PEFT; the names below are fetched when first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, List

if TYPE_CHECKING:
    from conformance.checks import CHECKS
    from conformance.examine import examine, reproduce
    from conformance.models import MODELS
    from conformance.settings import Settings
    from conformance.verdict import Outcome, Verdict

__all__ = ["CHECKS", "MODELS", "Outcome", "Settings", "Verdict", "examine", "reproduce"]

_HOMES = {
    "CHECKS": "conformance.checks",
    "MODELS": "conformance.models",
    "Outcome": "conformance.verdict",
    "Settings": "conformance.settings",
    "Verdict": "conformance.verdict",
    "examine": "conformance.examine",
    "reproduce": "conformance.examine",
}


def __getattr__(name: str) -> Any:
    """Fetch one of `__all__` from its home, once."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(_HOMES[name])
    # All that live there, not only `name`: importing the submodule `examine` binds it to the package under
    # the name of the function, which must win.
    for export, home in _HOMES.items():
        if home == _HOMES[name]:
            globals()[export] = getattr(module, export)
    return globals()[name]


def __dir__() -> List[str]:
    """List what `__getattr__` can fetch beside what is there."""
    return sorted({*globals(), *__all__})
