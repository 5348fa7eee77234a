"""A run's report as JSON lines: a header, each verdict, a footer. Everything else is a view of it."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Set, Tuple

from conformance.expected import reasons, unmet
from conformance.verdict import Outcome, Verdict

FORMAT = 1
"""Goes up when a reader of the older form would misread the newer."""

SEVERITY = (
    Outcome.FAIL,
    Outcome.ERROR,
    Outcome.VACUOUS,
    Outcome.EXPECTED,
    Outcome.REFUSED,
    Outcome.PASS,
    Outcome.SKIPPED,
)
"""Outcomes, worst first: of several, the first of these is shown."""

_MEASURES = ("error", "separation")


class ReportError(ValueError):
    """A file is no report that this version can read; the message names the file, the line and the reason."""


@dataclass(frozen=True)
class Report:
    """A run: its header, its verdicts and its footer, which is empty where the run was cut short."""

    header: Mapping[str, Any]
    verdicts: Tuple[Verdict, ...]
    footer: Mapping[str, Any]

    @property
    def with_shim(self) -> bool:
        """Whether the shim was installed."""
        return bool(self.header.get("settings", {}).get("with_shim"))

    @property
    def complete(self) -> bool:
        """Whether every verdict that was planned is here."""
        return bool(self.footer.get("complete"))

    @property
    def shard(self) -> str:
        """Which part of a run this is, such as "2/5", or "1,3/5" of some merged; nothing for a whole one."""
        return str(self.header.get("choice", {}).get("shard", ""))

    @property
    def unmet(self) -> Sequence[Mapping[str, Any]]:
        """The expected failures none of which came, each with its name, reason and line."""
        return tuple(self.footer.get("unmet", ()))

    @property
    def passed(self) -> bool:
        """Whether the run can be called a success: complete, something shown, nothing wrong that was not expected."""
        return (
            self.complete
            and not self.unmet
            and any(verdict.outcome is Outcome.PASS for verdict in self.verdicts)
            and not any(verdict.outcome.fails_the_run for verdict in self.verdicts)
        )


class Writer:
    """Writes a report line by line, so that a run that is killed leaves what it found."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")

    def write(self, record: Mapping[str, Any]) -> None:
        """Write one header or footer."""
        self._line(json.dumps(record, ensure_ascii=False))

    def write_verdict(self, verdict: Verdict) -> None:
        """Write one verdict."""
        self._line(verdict_to_json(verdict))

    def close(self) -> None:
        """Close the file; nothing can be written afterwards."""
        self._file.close()

    def _line(self, text: str) -> None:
        self._file.write(text + "\n")
        self._file.flush()


def verdict_to_json(verdict: Verdict) -> str:
    """Return the verdict as one line of JSON, which knows no infinity and no nan: they become words."""
    record: Dict[str, Any] = {"kind": "verdict", **verdict.to_record()}
    for measure in _MEASURES:
        value = record[measure]
        if value is not None and not math.isfinite(value):
            record[measure] = str(float(value))
    return json.dumps(record, ensure_ascii=False, allow_nan=False)


def verdict_from_json(line: str) -> Verdict:
    """Return the verdict that `verdict_to_json` gave `line` for."""
    return _verdict(json.loads(line))


def footer(
    verdicts: Sequence[Verdict], *, seconds: float, complete: bool, header: Optional[Mapping[str, Any]] = None
) -> Dict[str, Any]:
    """Return a report's last line; `complete` says that every planned verdict is in it."""
    counts = counted(verdicts)
    missed = unmet(header or {}, verdicts)
    return {
        "kind": "footer",
        "counts": {outcome.value: counts[outcome] for outcome in Outcome},
        "seconds": round(seconds, 3),
        "complete": complete,
        **({"unmet": missed} if missed else {}),
    }


def counted(verdicts: Iterable[Verdict]) -> Mapping[Outcome, int]:
    """Return how many verdicts have each outcome, zero included."""
    return Counter(verdict.outcome for verdict in verdicts)


def read(path: Path) -> Report:
    """Return the report in `path`; of a run that was cut short, what there is, without a footer.

    Raise `ReportError` for a file that is no report, `OSError` for one that cannot be read.
    """
    text = path.read_text(encoding="utf-8")
    records = []
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except ValueError:
            if number == len(lines) > 1 and not text.endswith("\n"):
                break  # the run was killed amid this line
            raise ReportError(f"{path}, line {number}: not JSON") from None
    return _report(path, records)


def write(path: Path, report: Report) -> None:
    """Write a whole report to `path`."""
    writer = Writer(path)
    writer.write(report.header)
    for verdict in report.verdicts:
        writer.write_verdict(verdict)
    if report.footer:
        writer.write(report.footer)
    writer.close()


def merge(reports: Iterable[Report]) -> List[Report]:
    """Return one report for each environment, with and without the shim apart, in the order of first mention.

    Where several give a verdict on one check and model, the worst stays, and an expected failure that did not come in
    one of them did not come: no merging hides a failure. Shards are complete once all those of their run are there,
    and so a single one is not; where some are missing, `Report.shard` says which there are.
    """
    groups: Dict[str, List[Report]] = {}
    for report in reports:
        key = [_environment(report), report.header.get("settings", {}).get("with_shim")]
        groups.setdefault(json.dumps(key, sort_keys=True), []).append(report)
    return [_merged(group) if len(group) > 1 or group[0].shard else group[0] for group in groups.values()]


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """Return the one of `outcomes` to show for them all."""
    return min(outcomes, key=SEVERITY.index)


def _environment(report: Report) -> Mapping[str, Any]:
    """Return what must agree; shards run on machines of one kind, whose kernels need not be of one build."""
    environment: Mapping[str, Any] = report.header.get("environment", {})
    if not report.shard:
        return environment
    return {**environment, "platform": str(environment.get("platform")).split("-")[0]}


def _merged(group: Sequence[Report]) -> Report:
    kept: Dict[Tuple[str, str], Verdict] = {}
    for verdict in (verdict for report in group for verdict in report.verdicts):
        key = (verdict.model, verdict.check)
        if key not in kept or SEVERITY.index(verdict.outcome) < SEVERITY.index(kept[key].outcome):
            kept[key] = verdict
    verdicts = tuple(kept.values())
    seconds = sum(report.footer.get("seconds", 0.0) for report in group)
    shard = _shards_there(group)
    complete = not shard and all(report.complete for report in group)
    ending = footer(verdicts, seconds=seconds, complete=complete)
    missed = _missed(group)
    return Report(_merged_header(group, verdicts, shard), verdicts, {**ending, **({"unmet": missed} if missed else {})})


def _merged_header(group: Sequence[Report], verdicts: Sequence[Verdict], shard: str) -> Dict[str, Any]:
    """Return the first one's header, with what was asked for, left out and expected in any of them."""
    commands = dict.fromkeys(str(report.header.get("command")) for report in group)
    header = {**next(filter(_is_quick, group), group[0]).header, "command": "; ".join(commands)}
    choices = [report.header["choice"] for report in group if "choice" in report.header]
    if choices:
        choice = {name: value for name, value in header.get("choice", {}).items() if name != "shard"}
        judged = {word for verdict in verdicts for word in (verdict.check, *verdict.clauses)}
        for name in ("left_out", "inapplicable"):
            if any(name in one for one in choices):
                choice[name] = sorted({word for one in choices for word in one.get(name, ())} - judged)
        header["choice"] = {**choice, "shard": shard} if shard else choice
    expected = _once(entry for report in group for entry in report.header.get("expected", ()))
    return {**header, "expected": expected} if expected else header


def _missed(group: Sequence[Report]) -> List[Mapping[str, Any]]:
    """Return the expected failures that did not come: in one of the reports, or in all that were held against it."""
    strict = [report for report in group if not _is_quick(report)]
    expected = _once(entry for report in strict for entry in report.header.get("expected", ()))
    verdicts = [verdict for report in strict for verdict in report.verdicts]
    return _once([*unmet({"expected": expected}, verdicts), *(entry for report in group for entry in report.unmet)])


def _once(entries: Iterable[Mapping[str, Any]]) -> List[Mapping[str, Any]]:
    return list({json.dumps(entry, sort_keys=True): entry for entry in entries}.values())


def _is_quick(report: Report) -> bool:
    return "left_out" in report.header.get("choice", {})


def _shards_there(group: Sequence[Report]) -> str:
    """Return which shards there are of the runs that are not whole; nothing where all are."""
    runs: Dict[str, List[Report]] = {}
    for report in group:
        runs.setdefault(_run(report), []).append(report)
    said = []
    for parts in runs.values():
        found: Dict[str, Set[int]] = {}
        for numbers, _, total in (part.shard.partition("/") for part in parts):
            found.setdefault(total, set()).update(map(int, filter(None, numbers.split(","))))
        if any(not total or len(numbers) == int(total) for total, numbers in found.items()):
            continue
        there = ", ".join(f"{','.join(map(str, sorted(numbers)))}/{total}" for total, numbers in found.items())
        said.append(f"{there} of {parts[0].header['choice'].get('models', '?')}" if len(runs) > 1 else there)
    return "; ".join(said)


def _run(report: Report) -> str:
    """Return what must agree where two are parts of one run: the choice, the settings, the code and what is expected.

    Not what a user's own model is: one drawn without a seed is never the same twice.
    """
    header = report.header
    choice = {name: value for name, value in header.get("choice", {}).items() if name not in ("shard", "own")}
    key = [choice, header.get("settings"), header.get("code"), reasons(header.get("expected", ()))]
    return json.dumps(key, sort_keys=True)


def _report(path: Path, records: Sequence[Any]) -> Report:
    if not records or not isinstance(records[0], dict) or records[0].get("kind") != "header":
        raise ReportError(f"{path}, line 1: a report begins with a header")
    if records[0].get("format") != FORMAT:
        raise ReportError(f"{path}, line 1: format {records[0].get('format')!r}, but {FORMAT} can be read here")
    verdicts: List[Verdict] = []
    ending: Mapping[str, Any] = {}
    for number, record in enumerate(records[1:], 2):
        try:
            if record["kind"] == "verdict":
                verdicts.append(_verdict(record))
            elif record["kind"] == "footer":
                ending = record
        except (KeyError, TypeError, ValueError) as error:
            raise ReportError(f"{path}, line {number}: no verdict, no footer: {error!r}") from None
    return Report(records[0], tuple(verdicts), ending)


def _verdict(record: Mapping[str, Any]) -> Verdict:
    # Infinity and nan were written as words.
    numbers = {name: float(record[name]) for name in _MEASURES if isinstance(record.get(name), str)}
    return Verdict.from_record({**record, **numbers})
