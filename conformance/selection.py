"""Which checks run on which models: the words of an option, resolved to pairs in one fixed order.

Models are named by comma lists: `tiny` is the models that are written by hand, for which all checks are; `all` is
every model type of the installed transformers, which the sweep judges, and `every:TYPE` one of these; `methods` is
every method of the installed PEFT, on one small model, and `method:TYPE` one of these; `own:PACKAGE:FUNCTION` is the
user's own model. Checks are named by comma lists of checks and clauses; `quick` is those that are soon done.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from conformance.shards import Shard, cost
from conformance.sweep.stages import stages_of

if TYPE_CHECKING:
    from conformance.checks import Check
    from conformance.models import Model
    from conformance.sweep.workshop import Swept
    from conformance.verdict import Verdict

ALL, TINY, EVERY = "all", "tiny", "every:"
METHODS, METHOD = "methods", "method:"
OWN = "own:"
QUICK = "quick"


@dataclass(frozen=True)
class Choice:
    """What was asked for, in the words of the options; `pairs` and `entries` are what is left to run of it."""

    models: str = TINY
    checks: str = ALL
    shard: Optional[Shard] = None

    def pairs(self, done: Sequence[Verdict] = ()) -> List[Tuple[Model, Check]]:
        """Return the (model, check) of this shard without a verdict in `done`."""
        chosen = chosen_pairs(self.models, self.checks)
        if self.shard:
            chosen = self.shard.of(chosen, lambda pair: cost(pair[0].name, [pair[1].name]))
        return remaining_pairs(chosen, done)

    def entries(self, done: Sequence[Verdict] = ()) -> List[Swept]:
        """Return the model types and methods of this shard without a verdict in `done`."""
        chosen = chosen_entries(self.models)
        if self.shard:
            chosen = self.shard.of(chosen, lambda entry: cost(entry.name, stages_of(entry.name)))
        return remaining_entries(chosen, done)

    def taken_over(self, before: Mapping[str, Any], done: Sequence[Verdict]) -> List[Verdict]:
        """Return those of an earlier run's verdicts, `before` its choice as a record, that this run would give again.

        They are of a model and check that is chosen now, and a model of the user's own is what it was then.
        """
        chosen = {(model.name, check.name) for model, check in self.pairs()}
        chosen |= {(entry.name, stage) for entry in self.entries() for stage in stages_of(entry.name)}
        changed = self.changed(before)
        return [
            verdict for verdict in done if (verdict.model, verdict.check) in chosen and verdict.model not in changed
        ]

    def changed(self, before: Mapping[str, Any]) -> List[str]:
        """Return the user's own models that are not known to be what they were in `before`, a choice as a record."""
        then = before.get("own", {})
        return [name for name, now in self.own().items() if not now or now != then.get(name)]

    def own(self) -> Dict[str, str]:
        """Return what each of the user's own models is: its fingerprint, "" where that cannot be said."""
        names = [word for word in _words(self.models) if word.startswith(OWN)]
        if not names:
            return {}
        from conformance.models.fingerprint import fingerprint

        return {name: fingerprint(name[len(OWN) :]) for name in names}

    def to_record(self) -> Dict[str, Any]:
        """Return the choice as JSON-ready data, for a report's header.

        With it go what the user's own models are, what was asked for and does not apply, and what a quick run leaves
        out.
        """
        record: Dict[str, Any] = {"models": self.models, "checks": self.checks}
        if self.shard and self.shard.total > 1:
            record["shard"] = str(self.shard)
        if QUICK in _words(self.checks):
            chosen = {check.name for check in chosen_checks(self.checks)}
            applying = {check.name for _, check in chosen_pairs(self.models)}
            record["left_out"] = sorted(applying - chosen)
        missing, own = inapplicable(self.models, self.checks), self.own()
        return {**record, **({"inapplicable": missing} if missing else {}), **({"own": own} if own else {})}


class UnknownChoiceError(ValueError):
    """A model, check or clause was asked for that does not exist; the message lists those that do."""


class CannotLoad(UnknownChoiceError):
    """What was named is not a model with inputs, or not an adapter; the message says what is missing."""


def chosen_models(wanted: str = TINY) -> List[Model]:
    """Return the models written by hand that the comma list `wanted` names, by name; then the user's own."""
    from conformance.models import MODELS

    words = _words(wanted) or [TINY]
    names = {word for word in words if word != TINY and not _is_swept(word) and not word.startswith(OWN)}
    _refuse_unknown("model", names, sorted(MODELS))
    chosen = [MODELS[name] for name in sorted(MODELS if TINY in words else names)]
    own = [word for word in words if word.startswith(OWN)]
    if own:
        from conformance.models.own import own_model

        chosen += map(own_model, own)
    return chosen


def chosen_entries(wanted: str = TINY) -> List[Swept]:
    """Return what the comma list `wanted` names for the sweep: model types (base classes and heads), methods."""
    words = list(filter(_is_swept, _words(wanted)))
    types = [word for word in words if word == ALL or word.startswith(EVERY)]
    known: List[Swept] = []
    if types:
        from conformance.models.every.classes import entries

        known += _chosen("model type", types, ALL, entries())
    if len(types) < len(words):
        from conformance.methods.kinds import methods

        known += _chosen("method", [word for word in words if word not in types], METHODS, methods())
    return known


def sweeps(wanted: str) -> bool:
    """Whether the comma list names anything for the sweep; looks nothing up."""
    return any(map(_is_swept, _words(wanted)))


def _is_swept(word: str) -> bool:
    return word in (ALL, METHODS) or word.startswith((EVERY, METHOD))


def _chosen(kind: str, words: Sequence[str], everything: str, entries: Sequence[Swept]) -> List[Swept]:
    """Return the entries that the words name: by name, or by the part before a plus with all that has it."""
    known = {entry.name: entry for entry in entries}
    types = {name.split("+")[0] for name in known}
    _refuse_unknown(kind, [word for word in words if word != everything], sorted({*known, *types}))
    return [
        entry for name, entry in known.items() if everything in words or name in words or name.split("+")[0] in words
    ]


def chosen_checks(wanted: str = ALL) -> List[Check]:
    """Return the checks that the comma list `wanted` names or whose clauses it names, by name."""
    from conformance.checks import CHECKS

    words = set(_words(wanted))
    words = set(CHECKS) if ALL in words or not words else words
    if QUICK in words:
        words = (words - {QUICK}) | {name for name, check in CHECKS.items() if check.quick}
    clauses = sorted({clause for check in CHECKS.values() for clause in check.clauses}, key=clause_order)
    _refuse_unknown("check or clause", words, [*clauses, *sorted(CHECKS)])
    return [check for name, check in sorted(CHECKS.items()) if words.intersection((name, *check.clauses))]


def chosen_pairs(models: str = TINY, checks: str = ALL) -> List[Tuple[Model, Check]]:
    """Return each (model, check) that was chosen and applies, sorted, so that all workers see one order."""
    return [
        (model, check) for model in chosen_models(models) for check in chosen_checks(checks) if check.applies_to(model)
    ]


def inapplicable(models: str, checks: str) -> List[str]:
    """Return the checks and clauses that were asked for by name and that apply to none of these models."""
    words = [word for word in _words(checks) if word != QUICK]
    if not words or ALL in words or not chosen_models(models):
        return []
    applying = {name for _, check in chosen_pairs(models, checks) for name in (check.name, *check.clauses)}
    return sorted(set(words) - applying)


def remaining_pairs(pairs: Iterable[Tuple[Model, Check]], done: Iterable[Verdict]) -> List[Tuple[Model, Check]]:
    """Return the pairs without a verdict."""
    judged = {(verdict.model, verdict.check) for verdict in done}
    return [(model, check) for model, check in pairs if (model.name, check.name) not in judged]


def remaining_entries(entries: Iterable[Swept], done: Iterable[Verdict]) -> List[Swept]:
    """Return the model types and methods without a verdict; a type's stages are judged together, or not at all."""
    judged = {verdict.model for verdict in done}
    return [entry for entry in entries if entry.name not in judged]


def clause_order(clause: str) -> Tuple[int, str, int]:
    """Return the sorting key that puts clauses in the order of the contract: R1, R2, R10, F1, S1, H1, ..."""
    match = re.fullmatch(r"([A-Z]+)(\d+)", clause)
    chapter, number = (match.group(1), int(match.group(2))) if match else (clause, 0)
    position = "RFSHGLAEC".find(chapter)
    return (position if position >= 0 else len("RFSHGLAEC"), chapter, number)


def _words(wanted: str) -> List[str]:
    """Split a comma list."""
    return [word.strip() for word in wanted.split(",") if word.strip()]


def _refuse_unknown(kind: str, words: Iterable[str], known: Sequence[str]) -> None:
    """Raise `UnknownChoiceError` where a word names nothing: with those that are near it, then all, in their order."""
    unknown = sorted(word for word in words if word not in known)
    if unknown:
        near = [name for word in unknown for name in get_close_matches(word, known)]
        meant = f"; near it: {', '.join(near)}" if near else ""
        raise UnknownChoiceError(f"no {kind} is called {', '.join(unknown)}{meant}; there are {', '.join(known)}")
