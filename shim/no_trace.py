"""What a call may change besides its outputs, put back (contract S1, S2)."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Tuple

import torch

from shim.modules import base_model_of
from shim.routing.sampling import own_generators
from shim.routing.tree import map_leaves, replace_state

_ABSENT: Any = object()


@contextmanager
def generators_restored() -> Iterator[None]:
    """Put every torch random generator back as it was, the samples' own too, however the block ends."""
    states = _generator_states()
    try:
        yield
    finally:
        _restore_generators(states)


@contextmanager
def failure_leaves_no_trace(model: Any, caches: Dict[str, Any]) -> Iterator[None]:
    """Put back random generators and `caches` where the block raises, and PEFT's own writes in any case.

    `PeftModelForCausalLM.generate` writes two attributes on the base model, and takes them back after an
    `Exception` but not after a KeyboardInterrupt. transformers' generate keeps its static cache on the model for the
    next call, which one that failed before its first forward leaves unfit for any.
    """
    states = _generator_states()
    before = {name: map_leaves(lambda _, leaf: leaf, cache) for name, cache in caches.items()}
    written = _attributes_that_generate_writes(model)
    try:
        yield
    except BaseException:
        _restore_generators(states)
        for name, cache in caches.items():
            replace_state(cache, before[name])
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
    if base is not model:  # PEFT's, between the two
        tuner = model.base_model
        owners += [(tuner, "prepare_inputs_for_generation"), (tuner, "generation_config")]
    return [(owner, name, vars(owner).get(name, _ABSENT)) for owner, name in owners]


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
