"""Time several things side by side, so that a noisy machine is noisy for all of them."""

from __future__ import annotations

import gc
import statistics
import time
from contextlib import nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import Callable, ContextManager, Dict, List, Mapping


@dataclass(frozen=True)
class Timing:
    """Seconds of repeated runs: the median, and the middle half's ends."""

    median: float
    low: float
    high: float
    runs: int


def interleaved(
    functions: Mapping[str, Callable[[], object]],
    *,
    seconds: float = 3.0,
    within: Mapping[str, Callable[[], ContextManager[object]]] = MappingProxyType({}),
) -> Dict[str, Timing]:
    """Run the functions in turns for about `seconds` in all, after one turn that does not count.

    At least five turns are taken. The collector of garbage is off meanwhile.

    Args:
        within: a context to run a function in, by its name; entering and leaving it is not timed.
    """
    for name, function in functions.items():
        with within.get(name, nullcontext)():
            function()
    found: Dict[str, List[float]] = {name: [] for name in functions}
    enabled = gc.isenabled()
    gc.disable()
    try:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or min(map(len, found.values())) < 5:
            for name, function in functions.items():
                with within.get(name, nullcontext)():
                    start = time.perf_counter()
                    function()
                    found[name].append(time.perf_counter() - start)
    finally:
        if enabled:
            gc.enable()
    return {name: _timing(values) for name, values in found.items()}


def _timing(values: List[float]) -> Timing:
    low, _, high = statistics.quantiles(values, n=4)
    return Timing(statistics.median(values), low, high, len(values))
