"""Sweep one entry: build it once, draw its batches, and judge it under every stage of adapters."""

from __future__ import annotations

import time
import traceback
import warnings
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from conformance.compare import Tier
from conformance.models.every.batch import Batch
from conformance.models.every.build import CannotBuild, build, inputs
from conformance.models.every.classes import Entry
from conformance.models.every.targets import expert_parameters, layers
from conformance.models.every.wide import without_narrowing
from conformance.models.precision import default_dtype
from conformance.sweep.adapted import CannotAdapt, with_adapters
from conformance.sweep.finding import Finding, Judgement
from conformance.sweep.generating import GENERATE
from conformance.sweep.judge import FLOAT32, FLOAT64, FORWARD, Way, judge
from conformance.sweep.reference import run
from conformance.sweep.stages import STAGES
from conformance.sweep.variants import FIRST, Drawing, drawings
from conformance.verdict import Verdict

SEED = 1
FEW = 12
WAYS: Dict[str, Way] = {stage: GENERATE if stage == "generate" else FORWARD for stage in STAGES}


def sweep(entry: Entry, say: Callable[[Verdict], None]) -> None:
    """Say one verdict for every stage; raise nothing that a model may raise."""
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model, dtype, tier = built(entry)
        except CannotBuild as error:
            for stage in STAGES:
                say(Judgement(Finding.CANNOT_BUILD, str(error)).verdict(entry.name, stage, 0.0))
            return
        for stage in STAGES:
            with precisely(dtype):
                judgement = judge_stage(entry, model, stage, tier)
            now = time.perf_counter()
            say(judgement.verdict(entry.name, stage, now - started))
            started = now


def built(entry: Entry) -> Tuple[Any, Any, Tier]:
    """Return the model in the first precision that it runs in, that dtype, and how equal rows must be in it.

    Raises:
        CannotBuild: it runs in none; the reason is what float64 said, or float32 where that said something else.
    """
    import torch

    reasons: List[str] = []
    for dtype, tier in ((torch.float64, FLOAT64), (torch.float32, FLOAT32)):
        try:
            with precisely(dtype):
                model = build(entry)
                outputs = run(model, inputs(entry, model, FIRST.samples, FIRST.length, SEED))
        except CannotBuild:
            raise
        except Exception as error:
            reasons.append(f"{type(error).__name__}: {' '.join(str(error).split())}"[:300])
            continue
        if any(torch.isfinite(value).any() for value in outputs.values() if value.is_floating_point()):
            return model, dtype, tier
        reasons.append("every output is nan" if outputs else "it has no output tensor")
    raise CannotBuild(reasons[-1])


@contextmanager
def precisely(dtype: Any) -> Iterator[None]:
    """Run the block in `dtype`; in float64 nothing in it is any narrower."""
    import torch

    with default_dtype(dtype):
        if dtype is torch.float64:
            with without_narrowing():
                yield
        else:
            yield


def judge_stage(entry: Entry, model: Any, stage: str, tier: Tier) -> Judgement:
    """Return what `stage` shows; of the layers that it adds, those are left out that PEFT itself cannot run."""
    try:
        return _judge_stage(entry, model, stage, tier)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        said = f"raised {type(error).__name__}: {error} [{place.filename.split('/')[-1]}:{place.lineno}]"
        return Judgement(Finding.CRASHED, said)


def _judge_stage(entry: Entry, model: Any, stage: str, tier: Tier) -> Judgement:
    modules, added = layers(model, stage)
    every = [*modules, *added]
    parameters = expert_parameters(model) if stage == "fused_experts" else []
    if not every:
        none = "it does not generate" if stage == "generate" else f"it has none of these: {STAGES[stage]}"
        return Judgement(Finding.NOTHING_TO_ADAPT, none)

    def judged(paths: List[str]) -> Judgement:
        return judge(model, paths, parameters, _batches(entry, model, stage), tier, WAYS[stage])

    try:
        return judged(every)
    except CannotAdapt as error:
        first = error
    usable = _usable(entry, model, every)
    if len(usable) < len(every) and (parameters or any(path in usable for path in added or modules)):
        left_out = ", ".join(path for path in every if path not in usable)
        try:
            judgement = judged(usable)
        except CannotAdapt as error:
            return Judgement(Finding.CANNOT_BUILD, str(error))
        said = f"without {left_out}, which PEFT itself cannot adapt here: {first}"
        return replace(judgement, detail=f"{judgement.detail}; {said}" if judgement.detail else said)
    return Judgement(Finding.CANNOT_BUILD, str(first))


def _usable(entry: Entry, model: Any, paths: List[str]) -> List[str]:
    """Return those of the layers at `paths` with whose adapters PEFT can run the model.

    Layers of one class and name, as the `out_proj` of every Mamba, stand or fall together where there are more than FEW
    of them: each trial is a run.
    """
    kinds: Dict[Tuple[str, str], List[str]] = {}
    for path in paths:
        kinds.setdefault((type(model.get_submodule(path)).__name__, path.rsplit(".", 1)[-1]), []).append(path)
    found: List[str] = []
    for alike in kinds.values():
        if _runs(entry, model, alike):
            found += alike
        elif len(alike) <= FEW:
            found += [path for path in alike if _runs(entry, model, [path])]
    return [path for path in paths if path in found]


def _runs(entry: Entry, model: Any, paths: List[str]) -> bool:
    """Whether PEFT can run the model with adapters on the layers at `paths`."""
    try:
        run(with_adapters(model, paths, []), inputs(entry, model, FIRST.samples, FIRST.length, SEED))
    except Exception:
        return False
    return True


def _batches(entry: Entry, model: Any, stage: str) -> Iterator[Tuple[Drawing, Optional[Batch]]]:
    """Yield the batches of a stage; None for one that the model cannot be given."""
    packed = bool(inputs(entry, model, FIRST.samples, FIRST.length, SEED).packed)
    for drawing in drawings(stage, entry.name, packed):
        try:
            batch = inputs(entry, model, drawing.samples, drawing.length, SEED, **drawing.options)
            if drawing is not FIRST:
                run(model, batch)
        except Exception:
            if drawing is FIRST:
                raise
            yield drawing, None
            continue
        yield drawing, WAYS[stage].given(batch, getattr(model, "config", None))
