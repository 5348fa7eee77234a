"""Decide which patches this environment needs, apply them all or none, and say what was done."""

from __future__ import annotations

import os
import threading
import warnings
from dataclasses import dataclass
from typing import FrozenSet, List, Optional, Sequence, Tuple

from shim.errors import PatchError
from shim.patch import Applied, Patch, Replacement
from shim.patches import catalogue
from shim.policy import SPLIT, choose
from shim.versions import is_installed


@dataclass(frozen=True)
class PatchStatus:
    """What became of one patch in this environment.

    needed: what the behaviour probe found; None where it could not run (`reason` says why).
    expected: whether the installed version lies in the range in which the defect was measured.
    """

    patch: Patch
    needed: Optional[bool]
    expected: bool
    applied: bool
    reason: str

    @property
    def agree(self) -> bool:
        """Whether the probe and the version range say the same."""
        return self.needed is self.expected


_LOCK = threading.RLock()
_INSTALLED: Optional[Tuple[Applied, Tuple[PatchStatus, ...]]] = None


def install(*, fallback: str = SPLIT, mixed_outputs: Sequence[str] = ()) -> Tuple[PatchStatus, ...]:
    """Apply every patch that the installed torch, transformers and peft need; all or nothing.

    Installing twice is installing once; the policy given last holds.
    `SHIM_DISABLE=1` installs nothing; `SHIM_DISABLE=name,name` leaves those patches out.

    Args:
        fallback: what becomes of a batch that cannot be proven exact in one pass: "split" runs one sub-batch per
            adapter where that is exact, "refuse" never does.
        mixed_outputs: names of outputs that may be made of several samples, such as CLIP's "logits_per_image";
            any other such output is refused.

    Raises:
        ValueError: no such fallback, or a string for a list.
        PatchError: a patch could not be applied; nothing was changed.
    """
    global _INSTALLED
    with _LOCK:
        choose(fallback, mixed_outputs)
        if _INSTALLED is not None:
            return _INSTALLED[1]
        applied = Applied()
        found: List[PatchStatus] = []
        try:
            for patch in catalogue():
                needed, reason = _decide(patch)
                if needed:
                    applied.add(_replacements(patch))
                found.append(PatchStatus(patch, needed, patch.expected, bool(needed), reason))
        except BaseException:
            applied.restore()
            raise
        _INSTALLED = (applied, tuple(found))
        return _INSTALLED[1]


def apply_more(replacements: Sequence[Replacement]) -> None:
    """Apply what an installed patch owes a class that was made after `install`; `uninstall` takes it back, too."""
    with _LOCK:
        if _INSTALLED is not None:
            _INSTALLED[0].add(replacements)


def uninstall() -> None:
    """Put back the very objects that `install` displaced; do nothing where nothing is installed.

    Raises:
        PatchError: someone else has patched over one of ours; nothing is changed then.
    """
    global _INSTALLED
    with _LOCK:
        if _INSTALLED is not None:
            _INSTALLED[0].restore()
            _INSTALLED = None


def status() -> Tuple[PatchStatus, ...]:
    """Return what each patch found here: as installed, or as `install` would find it now."""
    with _LOCK:
        if _INSTALLED is not None:
            return _INSTALLED[1]
        decided = [(patch, *_decide(patch)) for patch in catalogue()]
        return tuple(PatchStatus(patch, needed, patch.expected, False, why) for patch, needed, why in decided)


def _decide(patch: Patch) -> Tuple[Optional[bool], str]:
    if not is_installed(patch.distribution):
        return None, f"{patch.distribution} is not installed"
    disabled = _disabled()
    if "1" in disabled or patch.name in disabled:
        return None, "left out by SHIM_DISABLE"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # upstream's words on the toys of a probe are nobody's concern
            broken = patch.is_broken()
    except Exception as error:  # an unknown version, whose objects the probe does not know
        said = f"the probe raised {type(error).__name__}: {error}; the measured range decides"
        return patch.expected, said
    return broken, "the defect is here" if broken else "upstream is right here"


def _replacements(patch: Patch) -> Sequence[Replacement]:
    """Return the patch's replacements.

    Raises:
        PatchError: it looks for something that this version does not have.
    """
    try:
        return patch.replacements()
    except Exception as error:
        raise PatchError(
            f"{patch} does not fit this version: {type(error).__name__}: {error}. Nothing was changed; "
            f"SHIM_DISABLE={patch.name} leaves it out, and its defect in"
        ) from error


def _disabled() -> FrozenSet[str]:
    return frozenset(name.strip() for name in os.environ.get("SHIM_DISABLE", "").split(",") if name.strip())
