"""What is drawn: adapters, rows, lengths and one seed. Hypothesis draws structure; the seed makes the floats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Tuple

if TYPE_CHECKING:
    from conformance.models import Model

BASE = "__base__"
# No name is part of another, or of a parameter's: below 0.15, PEFT replaces names inside of names.
NAMES = ("ann", "ben", "cat", "dan")
_RANKS = (2, 1, 4, 3)

_Crowd = Tuple[Tuple[int, ...], Tuple[int, ...], Tuple[str, ...]]
_ANYHOW: _Crowd = (_RANKS, (2, 1, 4), ())
"""The ranks and strengths that an adapter may have, and the targets that it has in any case."""


@dataclass(frozen=True)
class Adapter:
    """One LoRA adapter: where it sits, how strong it is, which modules it saves a copy of, which tokens it trains."""

    name: str
    rank: int = 2
    alpha: int = 4
    targets: Tuple[str, ...] = ()
    saved: Tuple[str, ...] = ()
    rslora: bool = False
    tokens: Tuple[int, ...] = ()


@dataclass(frozen=True)
class Scenario:
    """One mixed call: the adapters that are loaded, the adapter of each row, and the seed of all values.

    active: the adapter that is active on the model during the call, which must not matter.
    """

    adapters: Tuple[Adapter, ...]
    rows: Tuple[str, ...]
    length: int
    active: str
    seed: int = 0

    @property
    def names(self) -> Tuple[str, ...]:
        """The names of the loaded adapters."""
        return tuple(adapter.name for adapter in self.adapters)


@dataclass(frozen=True)
class Draws:
    """Which scenarios a check wants.

    adapters, rows: least and greatest number. mixed: whether a batch has at least two distinct names.
    saved: `any` subset of the model's saveable modules for each adapter, `all`, `none`, or `differ`: the
    first adapter saves all, the last nothing, those between something. crowded: four adapters of two ranks, no two of
    one strength, all on one of the targets at least, each with a row: where layers take several adapters at once.
    """

    adapters: Tuple[int, int] = (1, 3)
    rows: Tuple[int, int] = (2, 4)
    mixed: bool = True
    saved: str = "any"
    crowded: bool = False


def scenarios(model: Model, draws: Draws) -> Any:
    """Return the Hypothesis strategy of the scenarios for `model`, simplest first: `["ann", "__base__"]`."""
    from hypothesis import strategies as st

    @st.composite
    def scenario(draw: Any) -> Scenario:
        count = draw(st.integers(*draws.adapters), label="number of adapters")
        crowd = draw(_crowd(model), label="what they share") if draws.crowded else [_ANYHOW] * count
        adapters = tuple(
            draw(_adapters(model, draws, index, count, crowd[index]), label=f"adapter {NAMES[index]}")
            for index in range(count)
        )
        names = [adapter.name for adapter in adapters]
        rows = draw(_rows(draws, names), label="rows")
        return Scenario(
            adapters=adapters,
            rows=tuple(rows),
            length=draw(st.sampled_from(model.lengths), label="length"),
            active=draw(st.sampled_from(names), label="active adapter"),
            seed=draw(st.integers(0, 2**16 - 1), label="seed"),
        )

    return scenario()


def _rows(draws: Draws, names: Any) -> Any:
    from hypothesis import strategies as st

    least, most = draws.rows
    if not draws.mixed:
        return st.lists(st.sampled_from([*names, BASE]), min_size=least, max_size=most)
    start = names if draws.crowded else [names[0], names[1] if len(names) > 1 else BASE]
    few, many = max(0, least - len(start)), max(0, most - len(start))
    more = st.lists(st.sampled_from([*names, BASE]), min_size=few, max_size=many)
    return more.flatmap(lambda rest: st.permutations([*start, *rest]))


def _crowd(model: Model) -> Any:
    """Return the strategy of (ranks, strengths, targets) of each adapter in a crowd."""
    from hypothesis import strategies as st

    ranks, strengths = st.permutations(_RANKS), st.permutations((2, 1, 4, 3))
    return st.builds(
        lambda ranks, strengths, target: [((ranks[i % 2],), (strengths[i],), (target,)) for i in range(len(NAMES))],
        ranks,
        strengths,
        st.sampled_from(model.targets),
    )


def _adapters(model: Model, draws: Draws, index: int, count: int, crowd: _Crowd) -> Any:
    from hypothesis import strategies as st

    rank, strength, on = st.sampled_from(crowd[0]), st.sampled_from(crowd[1]), crowd[2]
    saved = _saved(model, draws, index, count)
    rslora = st.just(False) if "integer" in model.tags else st.booleans()
    return st.builds(
        lambda rank, strength, targets, saved, rslora: Adapter(
            NAMES[index],
            rank,
            rank * strength,
            tuple(target for target in model.targets if target in (*targets, *on)),
            saved,
            rslora,
        ),
        rank,
        strength,
        _subsets(model.targets, at_least=1),
        saved,
        rslora,
    )


def _saved(model: Model, draws: Draws, index: int, count: int) -> Any:
    from hypothesis import strategies as st

    if draws.saved == "differ":
        if index in (0, count - 1):
            return st.just(model.saved if index == 0 else ())
        return _subsets(model.saved, at_least=min(1, len(model.saved)))
    if draws.saved == "any":
        return _subsets(model.saved)
    return st.just(model.saved if draws.saved == "all" else ())


def _subsets(items: Tuple[str, ...], at_least: int = 0) -> Any:
    from hypothesis import strategies as st

    if not items:
        return st.just(())
    chosen = st.sets(st.sampled_from(items), min_size=at_least)
    return chosen.map(lambda some: tuple(item for item in items if item in some))
