"""Failures that a user expects, from a TOML file beside their code; each is a `Defect` of its own.

    "mobilevit/R1" = "rows of folded batches, https://github.com/huggingface/peft/issues/1"
    "my_package.models:build/failure_leaves_no_trace" = "our own hooks, PROJ-12"
    "checkpoints/bert/R3" = "padding is seen, PROJ-13"

A key is a model as the command names it, a slash, and a check or a clause; the value is the reason, with a link.
Strict, as pytest's xfail can be: an entry whose checks were all judged while none failed is itself a failure.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Sequence, Tuple

from conformance.selection import EVERY, METHOD, OWN, chosen_checks, chosen_entries, chosen_models
from conformance.sweep.stages import stages_of
from conformance.upstream.defect import Defect, explaining
from conformance.verdict import Outcome, Verdict


class ExpectedFileError(ValueError):
    """A file of expected failures cannot be read; the message names the file, the line and what is wrong."""


@dataclass(frozen=True)
class Named:
    """A sighting by name: some checks of one model, at least one of which fails. None where the model is not run."""

    model: str
    checks: Tuple[str, ...]
    certain: bool = False

    def sees(self, verdict: Verdict) -> bool:
        """Whether this check is expected to fail on this model."""
        return verdict.model == self.model and verdict.check in self.checks

    def explains(self, verdict: Verdict) -> bool:
        """Whatever the verdict says: it was named."""
        return True

    def is_decided_by(self, verdicts: Iterable[Verdict]) -> bool:
        """Whether all its checks were judged: a shard of them leaves open whether another one fails."""
        return set(self.checks) <= {verdict.check for verdict in verdicts if verdict.model == self.model}


def read_expected(path: Path, models: str) -> Tuple[Defect, ...]:
    """Return the expected failures in the file at `path`, for a run on the comma list `models`.

    Raises:
        ExpectedFileError: it cannot be read, is no TOML, or an entry has no reason or names nothing that there is.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ExpectedFileError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    try:
        entries = _toml().loads(text)
    except ValueError as error:  # the parsers' own errors name the line
        raise ExpectedFileError(
            f'{path}: {error}; an entry should be "model/clause-or-check" = "reason, link", both in quotes'
        ) from None
    known = _checks_of(models)
    found = []
    for key, reason in entries.items():
        line = _line_of(key, text)
        try:
            found.append(_entry(key, reason, f"{path}, line {line}", known))
        except ValueError as error:
            raise ExpectedFileError(f"{path}, line {line}: {error}") from None
    return tuple(found)


def as_expected(verdict: Verdict, defects: Sequence[Defect]) -> Verdict:
    """Return a failing verdict that one of `defects` covers as an expected one, with the reason; else as it is."""
    by = explaining(verdict, defects) if verdict.outcome.fails_the_run else ()
    if not by:
        return verdict
    reasons = "; ".join(defect.said for defect in by)
    detail = f"{verdict.outcome.value}: {verdict.detail}"
    return replace(verdict, outcome=Outcome.EXPECTED, detail=detail, expected=reasons)


def unmet(header: Mapping[str, Any], verdicts: Sequence[Verdict]) -> List[Dict[str, Any]]:
    """Return the entries of a run's header whose checks were all judged, while none failed; none of a quick run."""
    if "left_out" in header.get("choice", {}):
        return []  # with few examples, what fails now and then may pass
    failed = {(verdict.model, verdict.check) for verdict in verdicts if verdict.outcome is Outcome.EXPECTED}
    missed = []
    for entry in header.get("expected", ()):
        sighting = Named(entry["model"], tuple(entry["checks"]))
        pairs = {(sighting.model, check) for check in sighting.checks}
        if pairs and sighting.is_decided_by(verdicts) and not pairs & failed:
            missed.append(entry)
    return missed


def to_records(defects: Sequence[Defect]) -> List[Dict[str, Any]]:
    """Return the entries as JSON-ready data, for a report's header: shards are held against them once merged."""
    return [
        {"name": one.name, "said": one.said, "where": one.upstream, "model": seen.model, "checks": list(seen.checks)}
        for one in defects
        for seen in one.seen
        if isinstance(seen, Named)
    ]


def reasons(entries: Iterable[Mapping[str, Any]]) -> Dict[str, str]:
    """Return what `to_records` gave as the reason by name: all that must agree where two runs expect the same."""
    return {entry["name"]: entry["said"] for entry in entries}


def _entry(key: str, reason: Any, where: str, known: Mapping[str, Mapping[str, Tuple[str, ...]]]) -> Defect:
    """Return the defect of one entry; raise `ValueError` for one that says nothing."""
    if not isinstance(reason, str):
        raise ValueError(f'{key!r} is {type(reason).__name__}, but should be "model/clause-or-check" = "reason, link"')
    if not reason.strip():
        raise ValueError(f"{key!r} has no reason: say why it is expected, with a link to where it is being mended")
    model, slash, word = key.rpartition("/")
    if not (slash and model and word):
        raise ValueError(f"{key!r} should be a model, a slash, and a check or clause, such as 'mobilevit/R1'")
    model = _full_name(model, known)
    checks = _checks(model, word, known)
    return Defect(key, " ".join(reason.split()), where, {}, (Named(model, checks),))


def _checks(model: str, word: str, known: Mapping[str, Mapping[str, Tuple[str, ...]]]) -> Tuple[str, ...]:
    """Return the checks of `model` that are called `word` or prove the clause; none where it is not in this run."""
    if model in known:
        checks = tuple(name for name, clauses in known[model].items() if word == name or word in clauses)
        if not checks:
            raise ValueError(f"no check or clause of {model} is called {word}; there are {_words(known[model])}")
        return checks
    if not model.startswith((EVERY, METHOD)):
        chosen_checks(word)  # raises for a word that no check knows
    if ":" not in model:
        chosen_models(model)
    return ()


def _checks_of(models: str) -> Dict[str, Dict[str, Tuple[str, ...]]]:
    """Return what can be judged of each model in the run, with the clauses that it proves."""
    checks = chosen_checks()
    known = {
        model.name: {check.name: tuple(check.clauses) for check in checks if check.applies_to(model)}
        for model in chosen_models(models)
    }
    for entry in chosen_entries(models):
        clauses = tuple(getattr(entry, "clauses", ("R7",)))
        known[entry.name] = dict.fromkeys(stages_of(entry.name), clauses)
    return known


def _full_name(model: str, known: Iterable[str]) -> str:
    """Return the name of a model in reports, where a user's own is `own:` and what was named on the command line.

    That is a function, a class or a folder. One in the run goes before a folder that is only there.
    """
    if model in known or model.startswith((OWN, EVERY, METHOD)):
        return model
    own = [name for name in known if name.startswith(OWN) and Path(name[len(OWN) :]) == Path(model)]
    if own:
        return own[0]
    return OWN + model if ":" in model or Path(model).is_dir() else model


def _words(checks: Mapping[str, Tuple[str, ...]]) -> str:
    clauses = {clause for proven in checks.values() for clause in proven}
    return ", ".join([*sorted(clauses), *checks])


def _line_of(key: str, text: str) -> str:
    """Return the number of the line that the entry begins on; "?" where the key is written some other way."""
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(rf"""\s*\[*\s*["']?{re.escape(key)}["'\].\s=]""", line):
            return str(number)
    return "?"


def _toml() -> Any:
    # Breakpoint: python 3.11 (PEP 680), which brought tomllib.
    for name in ("tomllib", "tomli"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    raise ExpectedFileError("a python below 3.11 reads TOML with tomli, which is not installed")
