"""A part of a run, for one of several machines: which, and how much work it is."""

from __future__ import annotations

import functools
import json
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, DefaultDict, Dict, Iterable, List, Mapping, Sequence, TypeVar

from conformance.verdict import Verdict

Item = TypeVar("Item")

_COSTS = Path(__file__).parent / "costs.json"


@dataclass(frozen=True)
class Shard:
    """The part `number` of `total`, from 1; the parts of any work are disjoint, and together all of it."""

    number: int
    total: int

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"

    @classmethod
    def parsed(cls, text: str) -> Shard:
        """Return the shard that `text`, such as "2/5", names; raise `ValueError` for one that there is not."""
        match = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
        shard = cls(*map(int, match.groups())) if match else cls(0, 0)
        if not 1 <= shard.number <= shard.total:
            raise ValueError(f"a shard is I/N with I from 1 to N, such as 2/5, but {text!r} was given")
        return shard

    def of(self, items: Sequence[Item], cost: Callable[[Item], int]) -> List[Item]:
        """Return this part of `items`, in their order; a part is empty where there are fewer items than parts.

        The dearest go first, each to the part that has least to do (longest processing time first, Graham 1969): no
        part has more than 4/3 of what the best division would give it. Costs are whole numbers, so that every machine
        divides alike.
        """
        loads = [0] * self.total
        mine = []
        for place in sorted(range(len(items)), key=lambda place: (-cost(items[place]), place)):
            lightest = loads.index(min(loads))
            loads[lightest] += cost(items[place])
            if lightest == self.number - 1:
                mine.append(place)
        return [items[place] for place in sorted(mine)]


def cost(model: str, checks: Iterable[str]) -> int:
    """Return about how many milliseconds `checks` take on `model`, by the record; of what it does not know, a mean."""
    recorded = _recorded()
    factor = recorded["models"].get(model, 1.0)
    return sum(max(1, round(1000 * factor * recorded["checks"].get(check, 1.0))) for check in checks)


def costs_of(verdicts: Sequence[Verdict]) -> Dict[str, Dict[str, float]]:
    """Return the record that these verdicts make: the mean seconds of each check, and how a model differs from it."""
    by_check: DefaultDict[str, List[float]] = defaultdict(list)
    for verdict in verdicts:
        by_check[verdict.check].append(verdict.seconds)
    means = {check: sum(seconds) / len(seconds) for check, seconds in sorted(by_check.items())}
    took: DefaultDict[str, float] = defaultdict(float)
    usual: DefaultDict[str, float] = defaultdict(float)
    for verdict in verdicts:
        took[verdict.model] += verdict.seconds
        usual[verdict.model] += means[verdict.check]
    return {
        "checks": {check: round(mean, 3) for check, mean in means.items()},
        "models": {model: round(took[model] / usual[model], 2) for model in sorted(took) if usual[model]},
    }


@functools.lru_cache(maxsize=None)
def _recorded() -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(_COSTS.read_text(encoding="utf-8"))
    return found
