"""The one place where the suite touches the shim: it is installed for a run, or not."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Tuple, Type


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


def reinstalling_faults() -> List[str]:
    """Install, install again and uninstall; return what the second install changed or uninstalling left.

    The shim is installed afterwards if and only if it was before.
    """
    import shim

    was_installed = any(status.applied for status in shim.status())
    shim.uninstall()
    upstream = _patchable()
    try:
        shim.install()
        once = _patchable()
        shim.install()
        faults = [f"installing twice replaces {name}" for name in _changed(once, _patchable())]
        if not _changed(upstream, once):
            faults.append("installing replaces nothing")
        shim.uninstall()
        return faults + [f"uninstalling leaves {name} changed" for name in _changed(upstream, _patchable())]
    finally:
        if was_installed:
            shim.install()


def _patchable() -> Dict[str, Any]:
    """Return the attributes of every class of torch and PEFT that a shim may touch, by name."""
    import peft
    import torch
    from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
    from peft.utils import other

    owners = [torch.nn.Module, BaseTuner, BaseTunerLayer, other]
    owners += [value for value in vars(peft).values() if isinstance(value, type)]
    owners += [value for value in vars(other).values() if isinstance(value, type)]
    return {
        f"{owner.__name__}.{name}": value
        for owner in owners
        for name, value in vars(owner).items()
        if not name.startswith("_abc")
    }


def _changed(before: Dict[str, Any], after: Dict[str, Any]) -> List[str]:
    return sorted(n for n in {*before, *after} if before.get(n, after) is not after.get(n, before))
