"""Where entries are swept: each in a child of a process that has imported what they all need."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Callable, List, Optional, Union

from conformance.report.jsonl import verdict_from_json, verdict_to_json
from conformance.sweep.finding import Finding, Judgement
from conformance.sweep.isolation import isolated
from conformance.sweep.stages import stages_of
from conformance.verdict import Verdict

if TYPE_CHECKING:
    from conformance.methods.kinds import Method
    from conformance.models.every.classes import Entry
    from conformance.settings import Settings

    Swept = Union[Entry, Method]

DEADLINE = 120.0
"""Seconds for all stages of one entry."""

Sweep = Callable[[Any, Callable[[Verdict], None]], None]


def prepare() -> None:
    """Import what every entry needs, so that no child does it again; one thread, so that a fork is safe."""
    import gc

    import peft
    import torch
    import transformers

    from conformance.methods import sweep
    from conformance.shim_switch import import_whole_shim
    from conformance.sweep import entry

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    # Whatever these import lazily is imported now: they touch most of what models are made of.
    for name in ("LlamaForCausalLM", "BertModel", "CLIPModel", "T5Model", "WhisperModel"):
        getattr(transformers, name)
    del peft, entry, sweep  # they are imported, and that is all
    import_whole_shim()
    gc.collect()
    gc.freeze()  # what is here already is not looked through, and copied, in every child


def judged(entry: Swept, settings: Settings, deadline: float = DEADLINE, work: Optional[Sweep] = None) -> List[Verdict]:
    """Return one verdict for each stage, whatever the entry does to its process."""
    started = time.perf_counter()
    chosen: Sweep = work or _sweep_of(entry)
    lines, ended = isolated(lambda say: chosen(entry, lambda verdict: say(verdict_to_json(verdict))), deadline)
    verdicts = [_with_reproduction(verdict_from_json(line), entry, settings) for line in lines]
    missing = stages_of(entry.name)[len(verdicts) :]
    finding = Finding.TIME_OUT if (ended or "").startswith("time-out") else Finding.CRASHED
    for stage in missing:
        detail = f"{ended or 'the sweep ended early'}, in the stage {missing[0]}"
        verdicts.append(Judgement(finding, detail).verdict(entry.name, stage, time.perf_counter() - started))
    return verdicts


def _sweep_of(entry: Swept) -> Sweep:
    from conformance.methods import sweep as of_method
    from conformance.methods.kinds import Method
    from conformance.sweep import entry as of_entry

    return of_method.sweep if isinstance(entry, Method) else of_entry.sweep


def _with_reproduction(verdict: Verdict, entry: Swept, settings: Settings) -> Verdict:
    """Return a failing verdict with the command that gives it again."""
    if not verdict.outcome.fails_the_run:
        return verdict
    from dataclasses import replace

    shim = "" if settings.with_shim else " --without-shim"
    return replace(verdict, reproduction=f"# python -m conformance run --models {entry.name}{shim}")
