"""Where entries are swept: each in a child of a process that has imported what they all need."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Callable, List, Optional

from conformance.report.jsonl import verdict_from_json, verdict_to_json
from conformance.sweep.finding import Finding, Judgement
from conformance.sweep.isolation import isolated
from conformance.sweep.stages import STAGES
from conformance.verdict import Verdict

if TYPE_CHECKING:
    from conformance.models.every.classes import Entry
    from conformance.settings import Settings

DEADLINE = 120.0
"""Seconds for all stages of one entry."""

Sweep = Callable[["Entry", Callable[[Verdict], None]], None]


def prepare() -> None:
    """Import what every entry needs, so that no child does it again; one thread, so that a fork is safe."""
    import gc

    import peft
    import torch
    import transformers

    from conformance.shim_switch import import_whole_shim
    from conformance.sweep import entry

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    # Whatever these import lazily is imported now: they touch most of what models are made of.
    for name in ("LlamaForCausalLM", "BertModel", "CLIPModel", "T5Model", "WhisperModel"):
        getattr(transformers, name)
    del peft, entry  # they are imported, and that is all
    import_whole_shim()
    gc.collect()
    gc.freeze()  # what is here already is not looked through, and copied, in every child


def judged(entry: Entry, settings: Settings, deadline: float = DEADLINE, work: Optional[Sweep] = None) -> List[Verdict]:
    """Return one verdict for each stage, whatever the entry does to its process."""
    from conformance.sweep.entry import sweep

    started = time.perf_counter()
    chosen: Sweep = work or sweep
    lines, ended = isolated(lambda say: chosen(entry, lambda verdict: say(verdict_to_json(verdict))), deadline)
    verdicts = [_with_reproduction(verdict_from_json(line), entry, settings) for line in lines]
    missing = list(STAGES)[len(verdicts) :]
    finding = Finding.TIME_OUT if (ended or "").startswith("time-out") else Finding.CRASHED
    for stage in missing:
        detail = f"{ended or 'the sweep ended early'}, in the stage {missing[0]}"
        verdicts.append(Judgement(finding, detail).verdict(entry.name, stage, time.perf_counter() - started))
    return verdicts


def _with_reproduction(verdict: Verdict, entry: Entry, settings: Settings) -> Verdict:
    """Return a failing verdict with the command that gives it again."""
    if not verdict.outcome.fails_the_run:
        return verdict
    from dataclasses import replace

    shim = "" if settings.with_shim else " --without-shim"
    return replace(verdict, reproduction=f"# python -m conformance run --models {entry.name}{shim}")
