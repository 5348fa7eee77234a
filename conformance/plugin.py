"""The pytest plugin: options for the suite, and the verdicts gathered into a report and a table.

It is loaded into every pytest session of a user who installed us, so importing it imports nothing heavy, and
it does nothing until a test of `conformance/test_contract.py` is there.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Set, Tuple

import pytest

from conformance.report.environment import header
from conformance.report.jsonl import Report, Writer, footer, read, verdict_from_json, verdict_to_json
from conformance.selection import (
    ALL,
    TINY,
    UnknownChoiceError,
    chosen_checks,
    chosen_entries,
    chosen_models,
    chosen_pairs,
    remaining_entries,
    remaining_pairs,
    sweeps,
)
from conformance.settings import Settings
from conformance.sweep.finding import Finding, Judgement
from conformance.sweep.stages import stages_of
from conformance.verdict import Outcome, Verdict

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

    from conformance.checks import Check
    from conformance.models import Model
    from conformance.sweep.workshop import Swept

VERDICT = "conformance_verdict"
DEVICE = "conformance_device"
"""The names under which a test's verdict and device travel on its report."""

_CONTRACT = "test_contract.py::test_model_keeps_contract["
_EVERY = "test_every.py::test_model_type_is_exact_or_refused["


class Hooks:
    """What the plugin tells other plugins of the session, on the controlling process only."""

    def pytest_conformance_planned(self, count: int) -> None:
        """Hear how many verdicts will come."""

    def pytest_conformance_verdict(self, verdict: Verdict) -> None:
        """Hear a verdict as soon as it is known."""


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Make `Hooks` known to pytest."""
    pluginmanager.add_hookspecs(Hooks)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the suite's options; every one begins with `--conformance-`."""
    group = parser.getgroup("conformance", "conformance of mixed-adapter batches (pytest --pyargs conformance)")
    group.addoption(
        "--conformance-device",
        default=Settings.device,
        metavar="DEVICE",
        help="cpu, cuda, cuda:1, ... or auto",
    )
    group.addoption(
        "--conformance-models",
        default=TINY,
        metavar="NAMES",
        help="comma list; tiny: models written by hand (default), all: every model type, methods: every method of PEFT",
    )
    group.addoption(
        "--conformance-checks",
        default=ALL,
        metavar="NAMES",
        help="comma list of checks or clauses, such as R1,S1",
    )
    group.addoption("--conformance-shim", choices=("on", "off"), default="on", help="off: judge upstream as it is")
    group.addoption(
        "--conformance-examples",
        type=int,
        default=Settings.examples,
        metavar="N",
        help="scenarios drawn for each check on each model",
    )
    group.addoption("--conformance-shrink", action="store_true", help="make failing scenarios small (slow)")
    group.addoption("--conformance-report", metavar="PATH", help="write the verdicts there, as JSON lines")
    group.addoption("--conformance-done", metavar="PATH", help="a report whose verdicts are taken over, not run again")


def pytest_configure(config: pytest.Config) -> None:
    """Refuse options that name nothing, and gather verdicts on the process that hears of all tests."""
    models, checks = choice(config)
    try:
        # Only what was asked for is looked up: a session without the suite must not import its models.
        if models != TINY:
            chosen_models(models), chosen_entries(models)
        if checks != ALL:
            chosen_checks(checks)
    except UnknownChoiceError as error:
        raise pytest.UsageError(str(error)) from None
    if settings(config).examples < 1:
        raise pytest.UsageError("--conformance-examples must be at least 1")
    if not hasattr(config, "workerinput"):  # a pytest-xdist worker hands its reports to the controller
        config.pluginmanager.register(Recorder(config), "conformance-recorder")


def choice(config: pytest.Config) -> Tuple[str, str]:
    """Return the models and the checks that were asked for, as they were written."""
    return (
        config.getoption("conformance_models", default=TINY),
        config.getoption("conformance_checks", default=ALL),
    )


def pairs(config: pytest.Config) -> List[Tuple[Model, Check]]:
    """Return the (model, check) to run: chosen, and not done before."""
    return remaining_pairs(chosen_pairs(*choice(config)), done_before(config))


def entries(config: pytest.Config) -> List[Swept]:
    """Return the model types and methods to sweep: chosen, and not done before."""
    return remaining_entries(chosen_entries(choice(config)[0]), done_before(config))


def done_before(config: pytest.Config) -> Tuple[Verdict, ...]:
    """Return the verdicts that an earlier run found and this one takes over."""
    path = config.getoption("conformance_done", default=None)
    return read(Path(path)).verdicts if path else ()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> Optional[bool]:
    """Leave the sweep out where no model type was chosen: it would be one skipped test."""
    return True if collection_path.name == "test_every.py" and not sweeps(choice(config)[0]) else None


def settings(config: pytest.Config) -> Settings:
    """Return the run's settings; the defaults where the plugin came too late for its options."""
    return Settings(
        device=config.getoption("conformance_device", default=Settings.device),
        with_shim=config.getoption("conformance_shim", default="on") == "on",
        examples=config.getoption("conformance_examples", default=Settings.examples),
        shrink=config.getoption("conformance_shrink", default=Settings.shrink),
    )


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

    def pytest_sessionfinish(self) -> None:
        """End the report; it is written even if nothing ran, lest an older one be taken for this run's."""
        if self._planned or self._verdicts or self._writer:
            self._open(None)
            self._footer = footer(
                self._verdicts,
                seconds=time.monotonic() - self._start,
                complete=bool(self._planned) and self._planned <= self._done,
            )
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
            self._header = header(settings(self._config), device)
            if self._writer:
                self._writer.write(self._header)
            for verdict in done_before(self._config):
                self._verdicts.append(verdict)
                if self._writer:
                    self._writer.write_verdict(verdict)


def _is_ours(nodeid: str) -> bool:
    """Whether a test is one of the suite's; its path is relative to whatever pytest took for the root."""
    return any(f"/{test}" in f"/{nodeid}" for test in (_CONTRACT, _EVERY))


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
