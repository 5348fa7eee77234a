"""What a call may change besides its outputs, put back (contract S1, S2)."""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Tuple

import numpy
import torch

from shim import kept
from shim.caches import failure_restores
from shim.modules import base_model_of, walk
from shim.routing.sampling import own_generators

_ABSENT: Any = object()


@contextmanager
def nothing_changed(model: Any, adapters: Iterable[str] = ()) -> Iterator[None]:
    """Put all back as it was, however the block ends; no other `adapters` run in it.

    Every random generator, and what modules keep for the next call, in buffers too.
    """
    restore, before = remember(model, adapters), kept.kept_by_all(model, adapters)
    try:
        with before.watched():
            yield
    finally:
        restore()
        kept.note(model, before.changed())
        before.restore()


@contextmanager
def failure_leaves_no_trace(model: Any, adapters: Iterable[str], caches: Dict[str, Any]) -> Iterator[None]:
    """Put back generators, buffers and `caches` where the block raises, and PEFT's own writes in any case.

    No other `adapters` run in it.

    `PeftModelForCausalLM.generate` writes two attributes on the base model, and takes them back after an
    `Exception` but not after a KeyboardInterrupt. transformers' generate keeps its static cache on the model for the
    next call, which one that failed before its first forward leaves unfit for any.
    """
    restore, held = remember(model, adapters), kept.kept_by_keepers(model)
    written = _attributes_that_generate_writes(model)
    try:
        with failure_restores(caches):
            yield
    except BaseException:
        restore()
        held.restore()
        raise
    finally:
        for owner, attribute, value in written:
            if value is _ABSENT:
                vars(owner).pop(attribute, None)
            else:
                vars(owner)[attribute] = value


def _attributes_that_generate_writes(model: Any) -> List[Tuple[Any, str, Any]]:
    base = base_model_of(model)
    owners = [(base, "generation_config"), (base, "_cache")]
    tuner = getattr(model, "base_model", base)
    if base is not model and tuner is not base:  # PEFT's, between the two; without it, it runs on copies (`prompts`)
        owners += [(tuner, "prepare_inputs_for_generation"), (tuner, "generation_config")]
    return [(owner, name, vars(owner).get(name, _ABSENT)) for owner, name in owners]


def remember(model: Any, adapters: Optional[Iterable[str]] = None) -> Callable[[], None]:
    """Return what puts back what a forward may change by itself, under `adapters`; under any, with None.

    In training mode that is buffers (spectral norms, codebooks, counters) too, and models draw by numpy and Python,
    whose generators a call in evaluation mode leaves to other threads.
    """
    states, restore_settings = _generator_states(), _settings(model)

    def restore_few() -> None:
        _restore_generators(states)
        restore_settings()

    if not model.training:
        return restore_few
    python, array = random.getstate(), numpy.random.get_state()
    buffers = [
        (found.module._buffers, name, buffer, buffer._version, buffer.detach().clone())
        for found in walk(model, None if adapters is None else set(adapters))
        for name, buffer in found.module._buffers.items()
        if buffer is not None
    ]

    def restore() -> None:
        restore_few()
        random.setstate(python)
        numpy.random.set_state(array)
        for held, name, buffer, version, value in buffers:
            held[name] = buffer
            # Only where it was written to: a graph that waits for its backward may hold it, and knows it by version.
            if buffer._version != version:
                with torch.no_grad():
                    buffer.copy_(value)

    return restore


def _settings(model: Any) -> Callable[[], None]:
    """Return what puts back the settings of the base model's configuration: classifiers note their `problem_type`."""
    held = getattr(getattr(base_model_of(model), "config", None), "__dict__", {})
    before = dict(held)

    def restore() -> None:
        for name in held.keys() - before.keys():
            held.pop(name, None)
        held.update(before)

    return restore


def _generator_states() -> Tuple[Any, List[Any], List[Any]]:
    cuda: Any = torch.cuda
    used = cuda.is_available() and cuda.is_initialized()
    samples = [generator.get_state() for generator in own_generators()]
    return torch.get_rng_state(), cuda.get_rng_state_all() if used else [], samples


def _restore_generators(states: Tuple[Any, List[Any], List[Any]]) -> None:
    cpu, cuda, samples = states
    torch.set_rng_state(cpu)
    if cuda:
        torch.cuda.set_rng_state_all(cuda)
    for generator, state in zip(own_generators(), samples):
        generator.set_state(state)
