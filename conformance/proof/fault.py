"""A planted fault as data: how to plant it, and who must see it."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from typing import Any, Callable, Dict, Tuple

from conformance.selection import CannotLoad
from conformance.verdict import Outcome

Plant = Callable[[Any], None]


def nothing(patch: Any) -> None:
    """Plant nothing."""


@dataclass(frozen=True)
class Fault:
    """One defect on purpose; `plant` puts it in place by a `pytest.MonkeyPatch`.

    check: the check that owns the fault, or the pytest node id of the test that does, for a fault of the suite itself.
    model: the model that it shows on; none for a test. route: the way that the calls take, in words; `prepare` makes
    them take it, without the fault too. outcome: what the check's verdict must be.
    """

    name: str
    plant: Plant
    check: str
    model: str = ""
    route: str = ""
    prepare: Plant = nothing
    outcome: Outcome = Outcome.FAIL

    @property
    def place(self) -> Tuple[str, str, str]:
        """What a run without the fault hangs on: faults of one place share it."""
        return self.model, self.check, self.route


FAULTS: Dict[str, Fault] = {}
"""Every fault that was registered, by name."""


def load(package: str) -> Dict[str, Fault]:
    """Import a package of faults, all but its tests, or a single module; return what is registered then.

    Raises:
        CannotLoad: it cannot be imported, or plants nothing.
    """
    try:
        module = importlib.import_module(package)
        for found in pkgutil.iter_modules(getattr(module, "__path__", ())):
            if not found.name.startswith(("test_", "conftest")):
                importlib.import_module(f"{package}.{found.name}")
    except ImportError as error:
        raise CannotLoad(f"--faults {package}: {error}. It should be a package or a module of faults") from error
    if not FAULTS:
        raise CannotLoad(f"--faults {package} plants nothing: a fault is registered in conformance.proof.fault.FAULTS")
    return FAULTS
