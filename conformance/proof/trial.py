"""One run of a fault's owner with one seed, the fault planted or not: a gate run in small."""

from __future__ import annotations

import contextlib
import contextvars
import io
import sys
import time
from pathlib import Path
from typing import Iterator

from conformance.checks import CHECKS
from conformance.examination import examine
from conformance.models import MODELS
from conformance.proof.fault import Fault
from conformance.settings import Settings
from conformance.shim_switch import shim_installed
from conformance.verdict import Outcome, Verdict


def trial(fault: Fault, settings: Settings, planted: bool = True) -> Verdict:
    """Return the verdict of the owner of `fault`, with the fault or without it.

    A fault may leave its selection behind, or what it patched in other modules: plant it in a process of its own.
    """
    import pytest

    with shim_installed(True), pytest.MonkeyPatch.context() as patch:
        fault.prepare(patch)
        if planted:
            fault.plant(patch)
        return contextvars.copy_context().run(_owner, fault, settings)


def _owner(fault: Fault, settings: Settings) -> Verdict:
    if fault.model:
        return examine(MODELS[fault.model], CHECKS[fault.check], settings)
    return _test(fault.check, settings.seed)


def _test(node: str, seed: object) -> Verdict:
    """Run a test of the suite's own; that it fails is what its verdict says."""
    import pytest

    _forget(Path(node.split("::")[0]))
    started, printed = time.perf_counter(), io.StringIO()
    with _quietly(printed):
        # Plugins warn of what this process has imported before them, which is no matter of the test's.
        quiet = ["-q", "-p", "no:cacheprovider", "-W", "ignore"]
        code = int(pytest.main([node, *quiet, f"--hypothesis-seed={seed or 0}"]))
    outcome = {0: Outcome.PASS, 1: Outcome.FAIL}.get(code, Outcome.ERROR)
    failed = [line for line in printed.getvalue().splitlines() if line.startswith(("E  ", "ERROR"))]
    detail = "" if outcome is Outcome.PASS else " ".join(failed[0].split()[1:]) if failed else printed.getvalue()[-400:]
    return Verdict("", node, (), outcome, detail, seconds=time.perf_counter() - started)


def _forget(path: Path) -> None:
    """Let the tests of the file be imported anew, so that they have what is planted now."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and Path(file) == path.resolve():
            del sys.modules[name]


@contextlib.contextmanager
def _quietly(stream: io.StringIO) -> Iterator[None]:
    with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        yield
