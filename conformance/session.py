"""The pytest session behind `python -m conformance run`: its arguments, and how it is kept from the user's own."""

from __future__ import annotations

import io
import os
import sys
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Iterator, List, Optional, Sequence

from conformance.report.jsonl import read
from conformance.report.progress import progress

if TYPE_CHECKING:
    import argparse

    from conformance.selection import Choice
    from conformance.verdict import Verdict

_PACKAGE = Path(__file__).parent


def pytest_arguments(options: argparse.Namespace, choice: Choice, report_path: Path, done: Optional[Path]) -> List[str]:
    """Return pytest's arguments for this run, which no configuration of the user's is to change; none for no work."""
    files = _files_with_work(choice, read(done).verdicts if done else ())
    if not files:
        return []
    arguments = [
        *(str(_PACKAGE / file) for file in files),
        f"--rootdir={_PACKAGE.parent}",
        f"--confcutdir={_PACKAGE}",
        *("-c", os.devnull),
        *("-p", "no:cacheprovider"),
        # By module, so that a checkout that is not installed works; never by entry point as well, since
        # pytest takes a plugin under two names for an error.
        *("-p", "no:conformance", "-p", "conformance.plugin"),
        "-q",
        f"--conformance-models={choice.models}",
        f"--conformance-checks={choice.checks}",
        f"--conformance-device={options.device}",
        f"--conformance-shim={'off' if options.without_shim else 'on'}",
        f"--conformance-examples={options.examples}",
        f"--conformance-report={report_path}",
    ]
    if choice.shard:
        arguments.append(f"--conformance-shard={choice.shard}")
    if done:
        arguments.append(f"--conformance-done={done}")
    if options.expect:
        arguments.append(f"--conformance-expect={options.expect}")
    if options.seed is not None:
        arguments.append(f"--conformance-seed={options.seed}")
    if options.shrink:
        arguments.append("--conformance-shrink")
    if options.junit:
        arguments.append(f"--junitxml={options.junit}")
    if options.workers:
        arguments += ["-p", "xdist.plugin", "-n", options.workers]
    return arguments


def _files_with_work(choice: Choice, done: Sequence[Verdict]) -> List[str]:
    """Return the test files with anything left to do: pytest takes an empty one for a skipped test."""
    files = []
    if choice.pairs(done):
        files.append("test_contract.py")
    if choice.entries(done):
        files.append("test_every.py")
    return files


def run_pytest(arguments: List[str], workers: Optional[str]) -> int:
    """Return pytest's exit code; what it prints is shown only where it could not do its work."""
    import pytest

    shown = progress()
    printed = io.StringIO()
    try:
        with _environment(workers), redirect_stdout(printed):
            status = int(pytest.main(arguments, plugins=[shown]))
    finally:
        shown.close()
    if status not in (0, 1):
        print(printed.getvalue(), file=sys.stderr)
    return status


@contextmanager
def _environment(workers: Optional[str]) -> Iterator[None]:
    """Keep the user's pytest settings and plugins out, and workers from fighting over the cores."""
    before = dict(os.environ)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS"):
        os.environ.pop(name, None)
    if workers:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
