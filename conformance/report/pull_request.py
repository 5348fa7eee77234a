"""A report as a pull request shows it: GitHub's step summary, and annotations in the log of a step."""

from __future__ import annotations

import sys
from html import escape
from pathlib import Path
from typing import Any, List, Optional, Sequence, Tuple

from conformance.report.jsonl import Report, counted
from conformance.report.markdown import escaped, expected, shortened
from conformance.report.result import Result, exit_code, result
from conformance.report.summary import MARKS, facts, failures, headline, not_run, refusals, unmet
from conformance.selection import OWN
from conformance.verdict import Outcome, Verdict

MOST_ANNOTATIONS = 10
"""GitHub shows ten errors of a step, and drops the rest unsaid."""

_LONGEST = 60_000  # a comment may have 65,536 characters, a step's summary a mebibyte
_LONGEST_DETAIL = 2_000
_MOST_REFUSALS = 30


def summary(report: Report) -> str:
    """Return the result, what fails with its reproduction folded away, what was expected, left out and refused.

    A reproduction is whole or not there: where all would be too long, the last failures are only counted.
    """
    lines = [f"### Mixed-adapter batches: {escaped(headline(report))}", "", escaped(facts(report)), ""]
    lines += [f"{escaped(line)}  " for line in not_run(report)]
    tail = _tail(report)
    left = _LONGEST - sum(map(len, lines)) - sum(map(len, tail))
    failed = failures(report)
    for number, verdict in enumerate(failed):
        block = _failure(verdict)
        left -= len(block)
        if left < 0:
            lines += ["", f"and {len(failed) - number} more that fail, which the report has.", ""]
            break
        lines += ["", block]
    return "\n".join(lines + tail) + "\n"


def append_summary(path: Path, reports: Sequence[Report]) -> None:
    """Append the summaries to the file at `path`, as GitHub wants it of $GITHUB_STEP_SUMMARY."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write("\n".join(map(summary, reports)))


def append_outputs(path: Path, reports: Sequence[Report]) -> None:
    """Append the worst result and the counts of all to the file at `path`, as GitHub wants it of $GITHUB_OUTPUT."""
    counts = counted(verdict for report in reports for verdict in report.verdicts)
    worst = max(map(result, reports), key=lambda found: (found is Result.FAILED, found.code), default=Result.CUT_SHORT)
    with path.open("a", encoding="utf-8") as file:
        file.write(f"result={worst.value}\n")
        file.writelines(f"{outcome.value}={counts[outcome]}\n" for outcome in Outcome)


def annotation_lines(report: Report, folder: Path) -> List[str]:
    """Return a line for each failure that makes GitHub show it, at most `MOST_ANNOTATIONS`, the last for the rest.

    A failure of a user's own model is shown at the function that makes it, where that lies in `folder`.
    """
    found = [_annotation(verdict, folder) for verdict in failures(report)]
    for entry, said in zip(report.unmet, unmet(report)):
        file, _, line = str(entry["where"]).rpartition(", line ")
        found.append(_error(said, title="an expected failure that did not come", file=file, line=line))
    if not found and exit_code(report):
        found.append(_error(headline(report), title=result(report).value))
    more = len(found) - MOST_ANNOTATIONS + 1
    if more > 1:
        found[MOST_ANNOTATIONS - 1 :] = [_error(f"and {more} more: the log and the report have them", title="more")]
    return found


def _tail(report: Report) -> List[str]:
    lines = expected(report)
    found = refusals(report)
    if found:
        lines += ["", f"<details><summary>Refused, and so neither wrong nor shown: {len(found)}</summary>", ""]
        lines += [
            f"- **{escaped(model)}** ({', '.join(clauses)}): {escaped(shortened(reason, 300))}"
            for model, clauses, reason in found[:_MOST_REFUSALS]
        ]
        more = len(found) - _MOST_REFUSALS
        lines += [*([f"- and {more} more"] if more > 0 else []), "", "</details>"]
    return lines


def _failure(verdict: Verdict) -> str:
    """Return one failure, folded; the line above the fold is HTML, in which GitHub reads no Markdown."""
    mark = MARKS[verdict.outcome]
    lines = [
        f"<details><summary>{mark.symbol} <b>{escape(verdict.model)}</b>, <code>{escape(verdict.check)}</code> "
        f"({escape(', '.join(verdict.clauses))}): {escape(mark.meaning)}</summary>",
        "",
        escaped(shortened(verdict.detail, _LONGEST_DETAIL)),
    ]
    if verdict.reproduction:
        fence = _fence(verdict.reproduction)
        lines += ["", f"{fence}python", verdict.reproduction.rstrip("\n"), fence]
    return "\n".join([*lines, "", "</details>"])


def _fence(text: str) -> str:
    """Return backticks enough that nothing in `text` ends the block."""
    fence = "```"
    while fence in text:
        fence += "`"
    return fence


def _annotation(verdict: Verdict, folder: Path) -> str:
    said = "\n\n".join(filter(None, [verdict.detail, verdict.reproduction]))
    title = f"{verdict.model}, {verdict.check} ({', '.join(verdict.clauses)}): {MARKS[verdict.outcome].meaning}"
    file, line = _place(verdict.model, folder)
    return _error(said, title=title, file=file, line=line)


def _error(message: str, **properties: Optional[str]) -> str:
    """Return the workflow command that shows an error; escaped as GitHub's own toolkit does (actions/toolkit)."""
    given = ",".join(f"{name}={_property(value)}" for name, value in properties.items() if value)
    return f"::error {given}::{_data(message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _place(model: str, folder: Path) -> Tuple[Optional[str], Optional[str]]:
    """Return the file, relative to `folder`, and the line of the function that makes a user's own model."""
    if not model.startswith(OWN):
        return None, None
    module, _, name = model[len(OWN) :].partition(":")
    code: Any = getattr(getattr(sys.modules.get(module), name, None), "__code__", None)
    try:
        return Path(code.co_filename).resolve().relative_to(folder.resolve()).as_posix(), str(code.co_firstlineno)
    except (AttributeError, ValueError):  # it was not loaded here, is no plain function, or lies elsewhere
        return None, None
