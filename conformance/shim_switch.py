"""The one place where the suite touches the shim: it is installed for a run, or not."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Iterator, Tuple, Type


@contextmanager
def shim_installed(wanted: bool) -> Iterator[None]:
    """Install the shim for the block where `wanted`; else run it on upstream as it is.

    A shim that was installed before stays as it was afterwards.
    """
    if not wanted:
        yield
        return
    import shim

    was_installed = any(status.applied for status in shim.status())
    shim.install()
    try:
        yield
    finally:
        if not was_installed:
            shim.uninstall()


def refusals() -> Tuple[Type[BaseException], ...]:
    """Return the errors that say by name why a batch cannot be proven exact; upstream has none."""
    import shim

    return (shim.RefusedError,)
