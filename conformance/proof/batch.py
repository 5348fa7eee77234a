"""The runs of all faults, in batches of seeds: each run in a process of its own, as many batches at once as asked."""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Callable, Dict, Iterator, List, Mapping, Sequence, Tuple

from conformance.checks import CHECKS
from conformance.proof.fault import FAULTS, Fault, load
from conformance.proof.tally import Proof, Tally
from conformance.proof.trial import trial
from conformance.report.jsonl import verdict_from_json, verdict_to_json
from conformance.settings import Settings
from conformance.shim_switch import shim_installed
from conformance.sweep.isolation import isolated
from conformance.verdict import Outcome, Verdict

SEEDS_AT_ONCE = 10
_DEADLINE = 300.0


@dataclass(frozen=True)
class Batch:
    """The runs of one fault, or of its owner without it, with the seeds from `begin` to `end`."""

    fault: str
    planted: bool
    begin: int
    end: int
    settings: Settings


def batches(faults: Mapping[str, Fault], seeds: int, scenarios: int, settings: Settings, done: Proof) -> List[Batch]:
    """Return what is left to run: all faults with some seeds, then with more, so that a run cut short is even.

    scenarios: how many at least to show on correct models, each place of a fault as many seeds as the others.
    """
    places: Dict[Tuple[str, str, str], str] = {}
    for name, fault in faults.items():
        places.setdefault(fault.place, name)
    shown = sum(settings.examples for model, _, _ in places if model)
    clean_seeds = -(-scenarios // max(shown, 1))
    found = []
    for begin in range(0, max(seeds, clean_seeds), SEEDS_AT_ONCE):
        for names, planted, most in ((faults, True, seeds), (places.values(), False, clean_seeds)):
            for name in names:
                first = max(begin, done.done(_key(faults[name], planted)))
                end = min(begin + SEEDS_AT_ONCE, most)
                if first < end:
                    found.append(Batch(name, planted, first, end, settings))
    return found


def run(todo: Sequence[Batch], package: str, workers: int) -> Iterator[Tally]:
    """Run the batches, and give each one's tally as it comes.

    package: where the faults are, for processes that are to load them anew.
    """
    if workers <= 1 or len(todo) <= 1:
        yield from map(tallied, todo)
        return
    spawn = multiprocessing.get_context("spawn")
    # Not multiprocessing.Pool, whose workers may have no children, and some checks start ranks.
    with _one_thread_each(), ProcessPoolExecutor(workers, spawn, load, (package,)) as pool:
        for done in as_completed([pool.submit(tallied, batch) for batch in todo]):
            yield done.result()


def tallied(batch: Batch, run_one: Callable[[Fault, Settings, bool], Verdict] = trial) -> Tally:
    """Return what the runs of `batch` come to."""
    fault, started = FAULTS[batch.fault], time.perf_counter()
    right, raised, shown, said = 0, 0, 0, ""
    wrong: List[Tuple[int, str]] = []
    wanted = fault.outcome if batch.planted else Outcome.PASS
    with _warm(fault, batch.settings):
        for seed in range(batch.begin, batch.end):
            verdict = _alone(fault, batch.settings, seed, batch.planted, run_one)
            shown += 0 if batch.planted else verdict.examples
            if verdict.outcome is wanted:
                right += 1
                said = said or verdict.detail[:300]
                raised += verdict.raised
            else:
                wrong.append((seed, f"{verdict.outcome.value}: {verdict.detail}"[:300]))
    name, model, check, route = _key(fault, batch.planted)
    return Tally(
        fault=name,
        check=check,
        model=model,
        route=route,
        clauses=CHECKS[check].clauses if model else (),
        begin=batch.begin,
        end=batch.end,
        right=right,
        raised=raised,
        wrong=tuple(wrong),
        said=said,
        scenarios=shown,
        seconds=round(time.perf_counter() - started, 1),
    )


def _key(fault: Fault, planted: bool) -> Tuple[str, str, str, str]:
    return fault.name if planted else "", fault.model, fault.check, fault.route


def _alone(fault: Fault, settings: Settings, seed: int, planted: bool, run_one: Callable[..., Verdict]) -> Verdict:
    """Run one seed in a process of its own; one that died or hung is an error of the suite, and caught nothing."""
    seeded = replace(settings, seed=seed)
    lines, reason = isolated(lambda say: say(verdict_to_json(run_one(fault, seeded, planted))), _DEADLINE)
    if lines and reason is None:
        return verdict_from_json(lines[-1])
    return Verdict(fault.model, fault.check, (), Outcome.ERROR, f"the run {reason or 'gave no verdict'}")


@contextmanager
def _warm(fault: Fault, settings: Settings) -> Iterator[None]:
    """Do once what every run's process would do again: the shim is installed, the model built, its code imported.

    On one thread: a fork of a process that has computed on several waits for the others for ever.
    """
    import torch

    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        try:
            with shim_installed(True):
                if fault.model:
                    trial(fault, replace(settings, examples=1), planted=False)
                yield
        finally:
            logging.disable(logging.NOTSET)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Keep workers from fighting over the cores."""
    before: Any = os.environ.get("OMP_NUM_THREADS")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
