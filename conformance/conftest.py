"""What the suite's two test files share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Iterator

import pytest

from conformance import options
from conformance.shim_switch import shim_installed

if TYPE_CHECKING:
    from conformance.settings import Settings


@pytest.fixture(scope="module")  # and not "session": a user's own tests come after it without the shim
def settings(request: pytest.FixtureRequest) -> Iterator[Settings]:
    """Yield the run's settings, with the shim installed where they want it."""
    chosen = options.settings(request.config)
    with shim_installed(chosen.with_shim):
        yield chosen
