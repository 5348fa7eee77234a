"""Which versions are installed, told without importing them, and which of them were tested together."""

from __future__ import annotations

import sys
from importlib import metadata, util
from typing import Dict, NamedTuple, Optional

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version


class Cell(NamedTuple):
    """One environment of the tested matrix, an environment of `tox.ini`."""

    python: str
    torch: str
    peft: str
    transformers: str


CELLS: Dict[str, Cell] = {
    "c01": Cell("3.8", "1.13.1", "0.10.0", "4.36.2"),
    "c02": Cell("3.8", "1.13.1", "0.13.2", "4.46.3"),
    "c03": Cell("3.11", "1.13.1", "0.11.1", "4.36.2"),
    "c04": Cell("3.10", "1.13.1", "0.21.2", "4.46.3"),
    "c05": Cell("3.11", "2.0.1", "0.9.0", "4.36.2"),
    "c06": Cell("3.11", "2.0.1", "0.10.0", "4.39.3"),
    "c07": Cell("3.11", "2.0.1", "0.11.1", "4.40.2"),
    "c08": Cell("3.10", "2.1.2", "0.12.0", "4.43.4"),
    "c09": Cell("3.10", "2.2.2", "0.13.2", "4.45.2"),
    "c10": Cell("3.10", "2.2.2", "0.14.0", "4.47.1"),
    "c11": Cell("3.10", "2.4.1", "0.15.2", "4.51.3"),
    "c12": Cell("3.12", "2.6.0", "0.16.0", "4.53.3"),
    "c13": Cell("3.9", "2.8.0", "0.17.1", "4.56.2"),
    "c14": Cell("3.12", "2.8.0", "0.18.1", "4.57.6"),
    "c15": Cell("3.12", "2.11.0", "0.19.1", "5.5.4"),
    "c16": Cell("3.11", "2.13.0", "0.20.0", "5.14.1"),
    "c17": Cell("3.11", "2.13.0", "0.21.2", "5.23.0"),
    "c18": Cell("3.13", "2.15.0", "0.21.2", "5.23.0"),
    "c19": Cell("3.11", "2.13.0", "0.11.1", "4.41.2"),
    "c22": Cell("3.11", "2.13.0", "0.18.1", "5.5.4"),
}
"""The tested matrix; `tests/test_tox.py` holds it against `tox.ini`."""


def is_installed(distribution: str) -> bool:
    """Tell whether `distribution`, which is imported by its own name, is there: a build in place has no metadata."""
    return installed(distribution) is not None or util.find_spec(distribution) is not None


def installed(distribution: str) -> Optional[Version]:
    """Return the installed version of `distribution`; None where there is none, or none that can be read."""
    try:
        return Version(metadata.version(distribution))
    except (metadata.PackageNotFoundError, InvalidVersion, TypeError):
        return None


def in_range(distribution: str, affected: str) -> bool:
    """Tell whether the installed `distribution` lies in the specifier `affected` (such as `"<2.0"`).

    Pre-releases and local versions count as the release that they lead to: `2.0.0a0+git` is not `<2.0`.
    """
    version = installed(distribution)
    return version is not None and SpecifierSet(affected).contains(Version(version.base_version))


def this_cell() -> Optional[str]:
    """Return the cell of the tested matrix that the installed versions are; None for one that was not tested."""
    here = Cell(python_version(), *map(_release, Cell._fields[1:]))
    return next((name for name, cell in CELLS.items() if cell == here), None)


def python_version() -> str:
    """Return the running python's version without its last number, such as `"3.8"`."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _release(distribution: str) -> str:
    """Return the version without what tells builds of it apart; development builds are no release."""
    version = installed(distribution)
    return str(version).split("+")[0] if version else ""
