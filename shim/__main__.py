"""`python -m shim status` and `python -m shim run SCRIPT | -m MODULE`: the shim without a line of code."""

from __future__ import annotations

import argparse
import os
import platform
import runpy
import sys
from typing import List, Optional, Sequence

import shim
from shim.versions import installed, is_installed, this_cell

_USAGE = """\
python -m shim status
       python -m shim run SCRIPT [ARGUMENTS ...]
       python -m shim run -m MODULE [ARGUMENTS ...]"""


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command line; return the exit status: 2 for wrong usage, else the command's own."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["status"] and len(arguments) == 1:
        print(f"{environment_text()}\n\n{status_text(shim.status())}")
        return 0
    if arguments[:1] == ["run"] and len(arguments) > 1:
        return _run(arguments[1:])
    parser = argparse.ArgumentParser(prog="python -m shim", usage=_USAGE, description=__doc__)
    if arguments in (["-h"], ["--help"]):
        parser.print_help()
        return 0
    parser.print_usage(sys.stderr)
    return 2


def environment_text() -> str:
    """Return the versions at hand in one line, and whether they were tested together."""
    here = [f"python {platform.python_version()}"]
    here += [f"{name} {installed(name) or _unread(name)}" for name in ("torch", "transformers", "peft")]
    cell = this_cell()
    if cell:
        return f"{', '.join(here)}: {cell} of the tested matrix"
    return f"{', '.join(here)}: not in the tested matrix; the probes below decide what is patched"


def _unread(name: str) -> str:
    return "of a version that cannot be read" if is_installed(name) else "missing"


def status_text(statuses: Sequence[shim.PatchStatus]) -> str:
    """Return one paragraph for each patch: what it mends, and what was found here."""
    lines: List[str] = []
    for status in statuses:
        patch = status.patch
        state = {True: "needed", False: "not needed", None: "not decided"}[status.needed]
        lines += [
            f"{patch.name}: {state}{', applied' if status.applied else ''} ({status.reason})",
            f"    mends:    {patch.defect}",
            f"    upstream: {patch.breakpoint}",
            f"    clauses:  {', '.join(patch.clauses)}",
            f"    shown by: python -m conformance run --without-shim --checks {patch.check}",
        ]
        if status.needed is not None and not status.agree:
            inside = "inside" if status.expected else "outside"
            lines.append(
                f"    note:     the probe disagrees with the measured range: {patch.distribution} is {inside} "
                f"{patch.affected}. The probe decides; please report it"
            )
    return "\n".join(lines)


def _run(arguments: List[str]) -> int:
    """Install the shim and run a script or module as `python` would, as `__main__`."""
    as_module = arguments[0] == "-m"
    rest = arguments[1:] if as_module else arguments
    if not rest:
        print(f"usage: {_USAGE}", file=sys.stderr)
        return 2
    shim.install()
    sys.argv = rest
    if as_module:
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = os.path.dirname(os.path.abspath(rest[0]))
        runpy.run_path(rest[0], run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main())
