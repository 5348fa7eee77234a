"""What a session's tests found, gathered on the process that hears of them all: the report, and the table."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Sequence, Set

import pytest

from conformance.expected import to_records
from conformance.options import choice, done_before, expected, settings
from conformance.report.environment import header
from conformance.report.jsonl import Report, Writer, footer, verdict_from_json, verdict_to_json
from conformance.selection import chosen_checks
from conformance.sweep.finding import Finding, Judgement
from conformance.sweep.stages import stages_of
from conformance.verdict import Outcome, Verdict

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

VERDICT = "conformance_verdict"
DEVICE = "conformance_device"
"""The names under which a test's verdict and device travel on its report."""

_CONTRACT = "test_contract.py::test_model_keeps_contract["
_EVERY = "test_every.py::test_model_type_is_exact_or_refused["


def packed(verdict: Verdict) -> str:
    """Return the verdict as the text that travels on a test's report."""
    return verdict_to_json(verdict)


def explained(verdict: Verdict) -> str:
    """Return what a failing test says: the sentence, then the reproduction."""
    clauses = ", ".join(verdict.clauses)
    said = f"{verdict.outcome.value}: {verdict.model}, {verdict.check} ({clauses}): {verdict.detail}"
    return f"{said}\n\n{verdict.reproduction}" if verdict.reproduction else said


class Recorder:
    """The session's verdicts: written to the report as they come, shown as a table at the end.

    Each test of ours ends in a verdict, even one whose worker died. Without tests of ours it is silent.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._planned: Set[str] = set()
        self._done: Set[str] = set()
        self._verdicts: List[Verdict] = []
        self._header: Dict[str, Any] = {}
        self._footer: Dict[str, Any] = {}
        self._start = time.monotonic()
        path = config.getoption("conformance_report", default=None)
        self._writer = Writer(_writable(Path(path))) if path else None

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note which tests of ours will run, where this process runs them."""
        self._plan(item.nodeid for item in session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: List[str]) -> None:
        """Note which tests of ours will run, where workers run them; all workers say the same."""
        self._plan(ids)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the verdict that the report carries, or make one of a test that could not give its own."""
        if not _is_ours(report.nodeid):
            return
        verdicts = [verdict_from_json(str(value)) for name, value in report.user_properties if name == VERDICT]
        device = next((str(value) for name, value in report.user_properties if name == DEVICE), None)
        if report.when != "call" or not verdicts:
            verdicts = _verdicts_of_a_broken_test(report) if report.failed else []
        for verdict in verdicts:
            self._take(report.nodeid, verdict, device)

    @pytest.hookimpl(tryfirst=True)  # before JUnit is written, and the failures are printed
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """End the report; it is written even if nothing ran, lest an older one be taken for this run's."""
        if self._planned or self._verdicts or self._writer:
            self._open(None)
            self._footer = footer(
                self._verdicts,
                seconds=time.monotonic() - self._start,
                complete=bool(self._planned or choice(self._config).shard) and self._planned <= self._done,
                header=self._header,
            )
            self._fail_for(session, self._footer.get("unmet", ()))
        if self._writer:
            self._writer.write(self._footer)
            self._writer.close()

    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> None:
        """Print the table, where tests of ours ran."""
        if self._config.getoption("collectonly", default=False) or not (self._planned or self._verdicts):
            return
        from conformance.report.table import render, speaks_unicode

        report = Report(self._header, tuple(self._verdicts), self._footer)
        color = self._config.get_terminal_writer().hasmarkup
        terminalreporter.section("conformance")
        # The reproductions were printed with pytest's failures already.
        terminalreporter.write(render(report, color=color, unicode=speaks_unicode(sys.stdout), reproductions=False))

    def _fail_for(self, session: pytest.Session, unmet: Sequence[Mapping[str, Any]]) -> None:
        """Let the session fail by one report for each expected failure that did not come, as a strict xfail does."""
        for entry in unmet:
            said = f"[XPASS(strict)] {entry['where']}: {entry['name']} should fail, but does not: {entry['said']}"
            # A warning that pytest may give of it, and a location, are of no use: no test function stands behind it.
            location = (str(entry["where"]), None, str(entry["name"]))
            nodeid = f"expected::{entry['name']}"
            report = pytest.TestReport(nodeid, location, {}, "failed", said, "call")
            self._config.hook.pytest_runtest_logreport(report=report)
        if unmet and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _plan(self, ids: Any) -> None:
        ours = {nodeid for nodeid in ids if _is_ours(nodeid)}
        if ours and not self._planned:
            self._planned = ours
            self._config.hook.pytest_conformance_planned(count=sum(map(_verdicts_planned, ours)))

    def _take(self, nodeid: str, verdict: Verdict, device: Optional[str]) -> None:
        self._open(device)
        self._done.add(nodeid)
        self._verdicts.append(verdict)
        if self._writer:
            self._writer.write_verdict(verdict)
        self._config.hook.pytest_conformance_verdict(verdict=verdict)

    def _open(self, device: Optional[str]) -> None:
        """Make the header at the first verdict: only the process that ran it can name the device."""
        if not self._header:
            self._header = header(
                settings(self._config), device, choice(self._config).to_record(), to_records(expected(self._config))
            )
            if self._writer:
                self._writer.write(self._header)
            for verdict in done_before(self._config):
                self._verdicts.append(verdict)
                if self._writer:
                    self._writer.write_verdict(verdict)


def _is_ours(nodeid: str) -> bool:
    """Whether a test is one of the suite's; its path is relative to whatever pytest took for the root."""
    # pytest makes one skipped test of none, as where a shard is empty.
    return any(f"/{test}" in f"/{nodeid}" for test in (_CONTRACT, _EVERY)) and not nodeid.endswith("[NOTSET]")


def _verdicts_planned(nodeid: str) -> int:
    """Return how many verdicts a test of ours gives: the sweep's one for each stage."""
    return 1 if _CONTRACT in nodeid else len(stages_of(_entry_of(nodeid)))


def _entry_of(nodeid: str) -> str:
    """Return the name of what one of the sweep's tests judges."""
    return nodeid.split(_EVERY, 1)[1].rstrip("]")


def _verdicts_of_a_broken_test(report: pytest.TestReport) -> List[Verdict]:
    """Return the verdicts on a test that died, or whose setup or teardown did."""
    # pytest-xdist reports a worker that died under no phase that pytest knows.
    known = report.when in ("setup", "call", "teardown")
    detail = f"the {report.when} of the test failed" if known else "the test's process died"
    crash = getattr(report.longrepr, "reprcrash", None)
    said = str(crash.message if crash else report.longreprtext).strip().splitlines() or ["no word"]
    detail = f"{detail}: {said[0]}"
    if _EVERY in report.nodeid:
        name = _entry_of(report.nodeid)
        return [Judgement(Finding.CRASHED, detail).verdict(name, stage, 0.0) for stage in stages_of(name)]
    name = report.nodeid.split(_CONTRACT, 1)[1].rstrip("]")
    model, _, check = name.rpartition("-")  # models are kebab case, checks snake case
    clauses = next((found.clauses for found in chosen_checks() if found.name == check), ())
    return [Verdict(model, check, clauses, Outcome.ERROR, detail)]


def _writable(path: Path) -> Path:
    """Return `path`, with its folder made; raise a usage error where no file can be written there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8"):
            pass
    except OSError as error:
        raise pytest.UsageError(f"--conformance-report: {error}") from None
    return path
