"""A conformance suite for mixed-adapter batches: what `adapter_names` must mean, shown on any installed PEFT.

    pytest --pyargs conformance     python -m conformance run     python -m conformance check my_package.models:build

Importing this package imports neither torch nor PEFT; the names below are fetched when first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, List

if TYPE_CHECKING:
    from conformance.checks import CHECKS
    from conformance.examination import examine, reproduce
    from conformance.in_tests import check_model, parametrize
    from conformance.models import MODELS
    from conformance.settings import Settings
    from conformance.verdict import Outcome, Verdict

__all__ = [
    "CHECKS",
    "MODELS",
    "Outcome",
    "Settings",
    "Verdict",
    "check_model",
    "examine",
    "parametrize",
    "reproduce",
]

_HOMES = {
    "CHECKS": "conformance.checks",
    "MODELS": "conformance.models",
    "Outcome": "conformance.verdict",
    "Settings": "conformance.settings",
    "Verdict": "conformance.verdict",
    "check_model": "conformance.in_tests",
    "examine": "conformance.examination",
    "parametrize": "conformance.in_tests",
    "reproduce": "conformance.examination",
}


def __getattr__(name: str) -> Any:
    """Fetch one of `__all__` from its home, once."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return globals()[name]


def __dir__() -> List[str]:
    """List what `__getattr__` can fetch beside what is there."""
    return sorted({*globals(), *__all__})
