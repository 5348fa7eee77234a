"""What a session's tests found, gathered on the process that hears of them all: the report, and the table."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional, Sequence, Set

import pytest

from conformance.expected import to_records
from conformance.options import NOTHING, choice, done_before, expected, settings
from conformance.report.environment import header
from conformance.report.jsonl import Report, Writer, footer, verdict_from_json, verdict_to_json
from conformance.selection import chosen_checks
from conformance.sweep.finding import Finding, Judgement
from conformance.sweep.stages import stages_of
from conformance.verdict import Outcome, Verdict
from conformance.workers import other_environment

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

VERDICT = "conformance_verdict"
DEVICE = "conformance_device"
ENVIRONMENT = "conformance_environment"
"""The names under which a test's verdict, its device and another interpreter's versions travel on its report."""

_CONTRACT = "test_contract.py::test_model_keeps_contract["
_EVERY = "test_every.py::test_model_type_is_exact_or_refused["


def carry(
    record_property: Callable[[str, object], None], config: pytest.Config, verdicts: Sequence[Verdict], device: str
) -> None:
    """Put the verdicts of a test on its report: as properties they survive the way from a worker to the controller."""
    for verdict in verdicts:
        record_property(VERDICT, verdict_to_json(verdict))
    record_property(DEVICE, device)
    other = other_environment(config)
    if other:
        record_property(ENVIRONMENT, other)


def explained(verdict: Verdict) -> str:
    """Return what a failing test says: the sentence, then the reproduction."""
    clauses = ", ".join(verdict.clauses)
    said = f"{verdict.outcome.value}: {verdict.model}, {verdict.check} ({clauses}): {verdict.detail}"
    return f"{said}\n\n{verdict.reproduction}" if verdict.reproduction else said


class Section:
    """The verdicts of one environment, and the report that they are written to as they come."""

    def __init__(self, config: pytest.Config, path: Optional[Path], other: str = "") -> None:
        self._config, self._path, self._other = config, path, other
        self._writer = Writer(_writable(path)) if path else None
        self.header: Dict[str, Any] = {}
        self.verdicts: List[Verdict] = []
        self.footer: Dict[str, Any] = {}
        self.done: Set[str] = set()

    @property
    def report(self) -> Report:
        """What it comes to."""
        return Report(self.header, tuple(self.verdicts), self.footer)

    def take(self, nodeid: str, verdict: Verdict, device: Optional[str]) -> None:
        """Write a verdict down."""
        self.open(device)
        self.done.add(nodeid)
        self._write(verdict)

    def open(self, device: Optional[str]) -> None:
        """Make the header at the first verdict: only the process that ran it can name the device."""
        if self.header:
            return
        config = self._config
        self.header = header(settings(config), device, choice(config).to_record(), to_records(expected(config)))
        self.header["environment"].update(json.loads(self._other or "{}"))
        if self._writer:
            self._writer.write(self.header)
        for verdict in done_before(config):
            self._write(verdict)

    def end(self, seconds: float, planned: Set[str]) -> None:
        """Write the last line."""
        self.open(None)
        whole = bool(planned or choice(self._config).shard) and planned <= self.done
        self.footer = footer(self.verdicts, seconds=seconds, complete=whole, header=self.header)
        if self._writer:
            self._writer.write(self.footer)
            self._writer.close()

    def drop(self) -> None:
        """Leave no report: nothing was to run in this environment."""
        if self._writer and self._path:
            self._writer.close()
            self._path.unlink()

    def _write(self, verdict: Verdict) -> None:
        self.verdicts.append(verdict)
        if self._writer:
            self._writer.write_verdict(verdict)


class Recorder:
    """The session's verdicts: written to the report as they come, shown as a table at the end.

    Each test of ours ends in a verdict, even one whose worker died. Without tests of ours it is silent. Workers of
    other interpreters have a report for each environment, beside the one that was named.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._planned: Set[str] = set()
        self._start = time.monotonic()
        path = config.getoption("conformance_report", default=None)
        self._path = Path(path) if path else None
        self._sections = {"": Section(config, self._path)}
        self._interpreters: Dict[str, str] = {}

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
        carried = [(name, str(value)) for name, value in report.user_properties]
        verdicts = [verdict_from_json(value) for name, value in carried if name == VERDICT]
        device = next((value for name, value in carried if name == DEVICE), None)
        other = self._environment_of(report, dict(carried).get(ENVIRONMENT))
        if report.when != "call" or not verdicts:
            verdicts = _verdicts_of_a_broken_test(report) if report.failed else []
        for verdict in verdicts:
            self._section(other).take(report.nodeid, verdict, device)
            self._config.hook.pytest_conformance_verdict(verdict=verdict)

    @pytest.hookimpl(tryfirst=True)  # before JUnit is written, and the failures are printed
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """End the report; it is written even if nothing ran, lest an older one be taken for this run's."""
        own = self._sections[""]
        if len(self._sections) > 1 and not own.done:
            self._sections.pop("").drop()
        for section in self._sections.values():
            if self._planned or section.verdicts or self._path:
                section.end(time.monotonic() - self._start, self._planned)
                self._fail_for(session, section.footer.get("unmet", ()))

    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> None:
        """Print a table for each environment, where tests of ours ran."""
        shown = [section.report for section in self._sections.values() if self._planned or section.verdicts]
        if self._config.getoption("collectonly", default=False) or not shown:
            return
        from conformance.report.table import render, speaks_unicode

        color = self._config.get_terminal_writer().hasmarkup
        terminalreporter.section("conformance")
        for report in shown:
            # The reproductions were printed with pytest's failures already.
            terminalreporter.write(render(report, color=color, unicode=speaks_unicode(sys.stdout), reproductions=False))

    def _environment_of(self, report: pytest.TestReport, said: Optional[str]) -> str:
        """Return the environment that a report says; where its test died, that of earlier ones of its interpreter."""
        node = getattr(report, "node", None)  # which only pytest-xdist has
        interpreter = str(node.gateway.spec.python) if node else ""
        if said:
            self._interpreters[interpreter] = said
        return self._interpreters.get(interpreter, "")

    def _section(self, other: str) -> Section:
        """Return the section of an environment; that of another interpreter has a file of its own."""
        if other not in self._sections:
            path = self._path
            if path:
                path = path.with_name(f"{path.stem}.{_slug(other)}{path.suffix}")
            self._sections[other] = Section(self._config, path, other)
        return self._sections[other]

    def _fail_for(self, session: pytest.Session, unmet: Sequence[Mapping[str, Any]]) -> None:
        """Let the session fail by one report for each expected failure that did not come, as a strict xfail does."""
        for entry in unmet:
            said = f"[XPASS(strict)] {entry['where']}: {entry['name']} should fail, but does not: {entry['said']}"
            location = (str(entry["where"]), None, str(entry["name"]))
            report = pytest.TestReport(f"expected::{entry['name']}", location, {}, "failed", said, "call")
            self._config.hook.pytest_runtest_logreport(report=report)
        if unmet and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _plan(self, ids: Any) -> None:
        ours = {nodeid for nodeid in ids if _is_ours(nodeid)}
        if ours and not self._planned:
            self._planned = ours
            self._config.hook.pytest_conformance_planned(count=sum(map(_verdicts_planned, ours)))


def _slug(environment: str) -> str:
    """Return the versions of an environment as a part of a file's name."""
    facts = json.loads(environment)
    packages = [f"{name}{facts['packages'].get(name, '')}" for name in ("torch", "transformers", "peft")]
    return "-".join([f"python{facts['python']}", *packages])


def _is_ours(nodeid: str) -> bool:
    """Whether a test is one of the suite's; its path is relative to whatever pytest took for the root."""
    return any(f"/{test}" in f"/{nodeid}" for test in (_CONTRACT, _EVERY)) and not nodeid.endswith(f"[{NOTHING}]")


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
