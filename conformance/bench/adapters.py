"""Time against the number of adapters, in the batch and loaded: PEFT, the shim, and what bounds them.

Each case is a ratio to *single*: the same batch under one adapter, by `set_adapter`, without the shim. Beside it are
*merged* (that adapter in the base weights), *base* (no adapter), and *single again*: what can be resolved at all.
"""

from __future__ import annotations

import copy
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence

from conformance.bench import llama
from conformance.bench.measurements import Row, measuring, one_thread, spread
from conformance.bench.timing import interleaved
from conformance.shim_switch import packed, shim_installed, shim_uninstalled

TOKENS = 24
_SIZES = ((512, 4), (512, 8), (512, 16), (512, 64), (1024, 16))


@dataclass(frozen=True)
class Case:
    """One batch. tokens: of each sample; generates: whether it generates `TOKENS` more, else one forward.

    target: the most that the project allows itself, as a ratio to single; 0 for none.
    """

    width: int
    rank: int
    samples: int
    tokens: int
    distinct: int
    loaded: int
    generates: bool = False
    target: float = 0.0

    @property
    def name(self) -> str:
        """The case in words."""
        how = f"generate {TOKENS} tokens after {self.tokens}" if self.generates else f"forward of {self.tokens} tokens"
        return (
            f"width {self.width}, rank {self.rank}, {self.samples} x {how}, "
            f"{self.distinct} adapters of {self.loaded} loaded"
        )


def cases(quick: bool) -> List[Case]:
    """Return the batches to measure, those of one model together."""
    if quick:
        return [
            *[Case(512, 8, 32, 1, distinct, 32) for distinct in (2, 32)],
            Case(512, 8, 32, 16, 32, 32, target=1.1),
            Case(512, 8, 32, 4, 32, 32, generates=True, target=1.15),
        ]
    decoding = [Case(width, rank, 32, 1, n, 32) for width, rank in _SIZES for n in (2, 8, 32)]
    prompts = [Case(width, rank, 32, 16, n, 32, target=_prompt_target(rank)) for width, rank in _SIZES for n in (2, 32)]
    long = [Case(width, rank, 8, 128, 8, 32, target=_prompt_target(rank)) for width, rank in _SIZES]
    generating = [
        Case(width, rank, 32, 4, n, 32, generates=True, target=1.15 if rank <= 16 else 1.5)
        for width, rank in ((512, 8), (512, 64), (1024, 16))
        for n in (2, 8, 32)
    ]
    return [
        *[Case(512, 8, 64, 1, distinct, 64) for distinct in (1, 2, 4, 8, 16, 32, 64)],
        *[Case(512, 8, 8, 16, 2, loaded) for loaded in (2, 8, 32, 128)],
        *[Case(512, 8, samples, 1, samples, 64) for samples in (1, 4, 16)],
        *sorted([*decoding, *prompts, *long, *generating], key=lambda case: (case.width, case.rank)),
    ]


def _prompt_target(rank: int) -> float:
    return 1.1 if rank <= 16 else 0.0


def measure(*, quick: bool, seconds: float, layers: int = 8, of: Sequence[Case] = ()) -> List[Row]:
    """Return the ratios of every case (or those of `of`), on random Llamas of `layers` layers, one thread."""
    import torch

    rows: List[Row] = []
    models: Optional[Models] = None
    with one_thread(), torch.no_grad():
        for case in of or cases(quick):
            measuring(case.name)
            if models is None or not models.serve(case):
                models = Models(layers, case)
            rows += _ratios(case, models, seconds)
    return rows


class Models:
    """A model with the adapters of a case, one that is packed, and one with the first of them in its weights."""

    def __init__(self, layers: int, case: Case) -> None:
        self._about = (case.width, case.rank, case.loaded)
        self.adapted = llama.build(layers, case.width, case.loaded, case.rank)
        self.packed = copy.deepcopy(self.adapted)
        packed(self.packed)
        self.merged = copy.deepcopy(self.adapted).merge_and_unload(adapter_names=["a0"])

    def serve(self, case: Case) -> bool:
        """Whether `case` is of these models."""
        return self._about == (case.width, case.rank, case.loaded)

    @contextmanager
    def base(self) -> Iterator[None]:
        """Switch the adapters off for the block."""
        with shim_uninstalled(), self.adapted.disable_adapter():
            yield


def _ratios(case: Case, models: Models, seconds: float) -> Iterator[Row]:
    batch = llama.inputs(case.samples, case.tokens)
    names = llama.names(case.samples, case.distinct)

    def run(model: Any, **more: Any) -> None:
        if case.generates:
            ends = {"eos_token_id": None, "pad_token_id": 0}
            model.generate(**batch, max_new_tokens=TOKENS, do_sample=False, **ends, **more)
        else:
            model(**batch, use_cache=False, **more)

    ways: Dict[str, Callable[[], object]] = {
        "shim": lambda: run(models.adapted, adapter_names=names),
        "shim, packed": lambda: run(models.packed, adapter_names=names),
        "PEFT": lambda: run(models.adapted, adapter_names=names),
        "single": lambda: run(models.adapted),
        "merged": lambda: run(models.merged),
        "base": lambda: run(models.adapted),
        "single again": lambda: run(models.adapted),
    }
    alone = {way: shim_uninstalled for way in ways if not way.startswith("shim")}
    with shim_installed(True):
        found = interleaved(ways, seconds=seconds, within={**alone, "base": models.base})
    for way in ways:
        if way != "single":
            target = case.target if way.startswith("shim") else 0.0
            ratio = found[way].median / found["single"].median
            yield Row(f"{case.name}: {way}", ratio, "x single", target, spread({way: found[way]}))
