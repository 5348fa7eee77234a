"""Which checks run on which models: the words of an option, resolved to pairs in one fixed order."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Collection, Iterable, List, Tuple

if TYPE_CHECKING:
    from conformance.checks import Check
    from conformance.models import Model

ALL = "all"


class UnknownChoiceError(ValueError):
    """A model, check or clause was asked for that does not exist; the message lists those that do."""


def chosen_models(wanted: str = ALL) -> List[Model]:
    """Return the models that the comma list `wanted` names, by name."""
    from conformance.models import MODELS

    names = _words(wanted) or list(MODELS)
    _refuse_unknown("model", names, MODELS)
    return [MODELS[name] for name in sorted(set(names))]


def chosen_checks(wanted: str = ALL) -> List[Check]:
    """Return the checks that the comma list `wanted` names or whose clauses it names, by name."""
    from conformance.checks import CHECKS

    words = set(_words(wanted) or CHECKS)
    clauses = sorted({clause for check in CHECKS.values() for clause in check.clauses}, key=clause_order)
    _refuse_unknown("check or clause", words, [*CHECKS, *clauses])
    return [check for name, check in sorted(CHECKS.items()) if words.intersection((name, *check.clauses))]


def chosen_pairs(models: str = ALL, checks: str = ALL) -> List[Tuple[Model, Check]]:
    """Return each (model, check) that was chosen and applies, sorted, so that all workers see one order."""
    return [
        (model, check) for model in chosen_models(models) for check in chosen_checks(checks) if check.applies_to(model)
    ]


def clause_order(clause: str) -> Tuple[int, str, int]:
    """Return the sorting key that puts clauses in the order of the contract: R1, R2, R10, F1, S1, H1, ..."""
    match = re.fullmatch(r"([A-Z]+)(\d+)", clause)
    chapter, number = (match.group(1), int(match.group(2))) if match else (clause, 0)
    position = "RFSHGLAEC".find(chapter)
    return (position if position >= 0 else len("RFSHGLAEC"), chapter, number)


def _words(wanted: str) -> List[str]:
    """Split a comma list; an empty one, and "all", give none."""
    words = [word.strip() for word in wanted.split(",") if word.strip()]
    return [] if ALL in words else words


def _refuse_unknown(kind: str, words: Iterable[str], known: Collection[str]) -> None:
    """Raise `UnknownChoiceError` where a word names nothing."""
    unknown = sorted(word for word in words if word not in known)
    if unknown:
        raise UnknownChoiceError(f"no {kind} is called {', '.join(unknown)}; there are {', '.join(known)}")
