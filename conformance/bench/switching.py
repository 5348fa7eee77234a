"""Other ways to serve one batch of several adapters, beside the mixed call; and when merging pays.

*switch*: `set_adapter`, then the rows of one adapter, in turn. *merge*: the same, the adapter merged into the base for
its rows and unmerged again. A fixed combination of adapters (`add_weighted_adapter`) is called unmerged and merged: it
pays to merge it for so many calls as merging takes longer than a call saves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, List, Sequence

from conformance.bench import llama
from conformance.bench.measurements import Row, measuring, one_thread, spread
from conformance.bench.timing import interleaved
from conformance.shim_switch import shim_installed, shim_uninstalled


@dataclass(frozen=True)
class Case:
    """A batch of `samples` of `tokens` tokens under `distinct` adapters, on a Llama of `width`."""

    width: int
    rank: int
    samples: int
    tokens: int
    distinct: int

    @property
    def name(self) -> str:
        """The case in words."""
        return (
            f"width {self.width}, rank {self.rank}, {self.samples} x forward of {self.tokens} tokens, "
            f"{self.distinct} adapters"
        )


def cases(quick: bool) -> List[Case]:
    """Return the batches to measure."""
    sizes = [(1, 8), (16, 8)] if quick else [(tokens, distinct) for tokens in (1, 16, 64) for distinct in (2, 8, 32)]
    return [Case(512, 8, 32, tokens, distinct) for tokens, distinct in sizes]


def measure(*, quick: bool, seconds: float, layers: int = 8, of: Sequence[Case] = ()) -> List[Row]:
    """Return for every case (or those of `of`) each way's time, and after how many calls merging has paid."""
    import torch

    with one_thread(), torch.no_grad():
        chosen = of or cases(quick)
        rows = [row for case in chosen for row in _ways(case, layers, seconds)]
        return [*rows, *(row for case in _one_of_each_batch(chosen) for row in _combination(case, layers, seconds))]


def _one_of_each_batch(chosen: Sequence[Case]) -> List[Case]:
    return list({(case.width, case.rank, case.samples, case.tokens): case for case in chosen}.values())


def _ways(case: Case, layers: int, seconds: float) -> Iterator[Row]:
    measuring(case.name)
    model = llama.build(layers, case.width, case.distinct, case.rank)
    batch, names = llama.inputs(case.samples, case.tokens), llama.names(case.samples, case.distinct)
    parts = {name: [row for row, other in enumerate(names) if other == name] for name in dict.fromkeys(names)}

    def each(use: Callable[[str], None], after: Callable[[], None]) -> None:
        for name, rows in parts.items():
            use(name)
            model(**{key: value[rows] for key, value in batch.items()}, use_cache=False)
            after()

    ways: Dict[str, Callable[[], object]] = {
        "mixed": lambda: model(**batch, use_cache=False, adapter_names=names),
        "switch": lambda: each(model.set_adapter, lambda: None),
        "merge": lambda: each(lambda name: model.merge_adapter([name]), model.unmerge_adapter),
        "mixed again": lambda: model(**batch, use_cache=False, adapter_names=names),
    }
    with shim_installed(True):
        found = interleaved(ways, seconds=seconds, within=dict.fromkeys(("switch", "merge"), shim_uninstalled))
    for way in ways:
        if way != "mixed":
            value = found[way].median / found["mixed"].median
            yield Row(f"{case.name}: {way}", value, "x mixed", spread=spread({way: found[way]}))


def _combination(case: Case, layers: int, seconds: float) -> Iterator[Row]:
    """Measure a fixed combination of two adapters, unmerged and merged, and what merging takes."""
    measuring(f"{case.name}: merged")
    model = llama.build(layers, case.width, 2, case.rank)
    batch = llama.inputs(case.samples, case.tokens)

    def combine(name: str = "again") -> None:
        if name in model.peft_config:
            model.delete_adapter(name)
        model.add_weighted_adapter(["a0", "a1"], [0.5, 0.5], name, combination_type="linear")

    combine("both")
    model.set_adapter("both")
    merged = _merged_copy(model)
    ways: Dict[str, Callable[[], object]] = {
        "unmerged": lambda: model(**batch, use_cache=False),
        "merged": lambda: merged(**batch, use_cache=False),
        "merging": lambda: (model.merge_adapter(["both"]), model.unmerge_adapter()),
        "combining": combine,
    }
    with shim_uninstalled():
        found = interleaved(ways, seconds=seconds)
    about = f"width {case.width}, rank {case.rank}, {case.samples} x forward of {case.tokens} tokens, a combination"
    saved = found["unmerged"].median - found["merged"].median
    for way in ("unmerged", "merging", "combining"):
        value = found[way].median / found["merged"].median
        yield Row(f"{about}: {way}", value, "x merged", spread=spread({way: found[way]}))
    calls = found["merging"].median / saved if saved > 0 else float("inf")
    yield Row(f"{about}: merging and unmerging has paid after", calls, "calls")


def _merged_copy(model: Any) -> Any:
    import copy

    return copy.deepcopy(model).merge_and_unload(adapter_names=["both"])
