"""How far a run is: a bar on a terminal, a few lines in a log."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, TextIO
from typing import Counter as CounterOf

from conformance.verdict import Outcome, Verdict

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


def progress() -> Lines:
    """Return what shows the verdicts of a run: a `Bar` on a terminal that rich can draw on, else `Lines`."""
    stream = _own_stdout()
    if stream.isatty():
        try:
            return Bar(stream)
        except ImportError:
            pass
    return Lines(stream)


class Lines:
    """A pytest plugin that prints a line for each tenth of the run, and one for each failure at once."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._start = time.monotonic()
        self.planned = 0
        self.counts: CounterOf[Outcome] = Counter()

    def pytest_conformance_planned(self, count: int) -> None:
        """Note how many verdicts will come."""
        self.planned = count
        self.begin()

    def pytest_conformance_verdict(self, verdict: Verdict) -> None:
        """Count the verdict and show it."""
        self.counts[verdict.outcome] += 1
        self.show(verdict)

    @property
    def done(self) -> int:
        """How many verdicts have come."""
        return sum(self.counts.values())

    def begin(self) -> None:
        """Show that the run begins."""
        self._print(f"{self.planned} checks to run")

    def show(self, verdict: Verdict) -> None:
        """Show that `verdict` has come."""
        if verdict.outcome.fails_the_run:
            self._print(f"{verdict.outcome.value}: {verdict.model}, {verdict.check}")
        tenth = max(1, self.planned // 10)
        if self.done % tenth == 0 or self.done == self.planned:
            self._print(f"{self.done}/{self.planned}: {self.said()} ({time.monotonic() - self._start:.0f} s)")

    def said(self) -> str:
        """Return the counts so far in words."""
        return ", ".join(f"{self.counts[outcome]} {outcome.value}" for outcome in Outcome if self.counts[outcome])

    def close(self) -> None:
        """End the display."""
        self._stream.flush()

    def _print(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


class Bar(Lines):
    """The same as one line that moves; it goes when the run is over."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._bar = _bar(stream)
        self._task: TaskID = self._bar.add_task("collecting", total=None)
        self._bar.start()

    def begin(self) -> None:
        """Give the bar its length."""
        self._bar.update(self._task, total=self.planned)

    def show(self, verdict: Verdict) -> None:
        """Move the bar; a failure stays above it."""
        if verdict.outcome.fails_the_run:
            self._bar.console.print(
                f"{verdict.outcome.value}: {verdict.model}, {verdict.check}", style="red", markup=False
            )
        self._bar.update(self._task, completed=self.done, description=self.said())

    def close(self) -> None:
        """Take the bar away."""
        self._bar.stop()
        super().close()


def _bar(stream: TextIO) -> Progress:
    from rich import progress as parts
    from rich.console import Console

    return parts.Progress(
        parts.BarColumn(),
        parts.MofNCompleteColumn(),
        parts.TextColumn("{task.description}"),
        parts.TimeElapsedColumn(),
        console=Console(file=stream),
        transient=True,
        # Whatever the checks print is pytest's to capture.
        redirect_stdout=False,
        redirect_stderr=False,
    )


def _own_stdout() -> TextIO:
    """Return a stream of our own to where standard output goes now: pytest turns the common one aside."""
    stream: Any = sys.stdout
    try:
        return os.fdopen(os.dup(stream.fileno()), "w", encoding=stream.encoding, errors="replace")
    except (OSError, ValueError, AttributeError):  # a stand-in for standard output, as in a notebook
        return sys.stdout
