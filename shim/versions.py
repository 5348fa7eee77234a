"""Which versions are installed, told without importing them."""

from __future__ import annotations

from importlib import metadata
from typing import Optional

from packaging.specifiers import SpecifierSet
from packaging.version import Version


def installed(distribution: str) -> Optional[Version]:
    """Return the installed version of `distribution`, or None where it is not installed."""
    try:
        return Version(metadata.version(distribution))
    except metadata.PackageNotFoundError:
        return None


def in_range(distribution: str, affected: str) -> bool:
    """Tell whether the installed `distribution` lies in the specifier `affected` (such as `"<2.0"`).

    Pre-releases and local versions count as the release that they lead to: `2.0.0a0+git` is not `<2.0`.
    """
    version = installed(distribution)
    return version is not None and SpecifierSet(affected).contains(Version(version.base_version))
