"""From an entry to a tiny random model that runs: float64 where it can, float32 where it cannot."""

from __future__ import annotations

import importlib
import warnings
from typing import Any, Mapping, Optional

from conformance.models.every import others, peculiar, pictures, sounds, words
from conformance.models.every.batch import Batch
from conformance.models.every.classes import Entry, config_class
from conformance.models.every.configs import everywhere, tiny
from conformance.models.every.facts import facts_of
from conformance.models.every.feed import Feed
from conformance.models.random_weights import randomize

MOST_PARAMETERS = 100_000_000
SOFT = 0.01
DRAWERS = (peculiar.draw, pictures.draw, sounds.draw, others.draw_beside, words.draw, others.draw)


class CannotBuild(Exception):
    """The entry cannot be run here; the message is the reason."""


def build(entry: Entry, seed: int = 0) -> Any:
    """Return the model in evaluation mode, of random weights, in the default dtype."""
    import transformers

    if not entry.architecture:
        raise CannotBuild("registered with a configuration only: no model class of its own")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = tiny(config_class(entry.model_type), f"{entry.model_type}+{entry.part}")
        model = tiny_model(found_class(entry, transformers), config, seed)
        _soften(model, facts_of(entry).get("soften"))
    return model


def tiny_model(architecture: Any, config: Any, seed: int = 0) -> Any:
    """Return a model of the class in evaluation mode, of random weights, in the default dtype.

    Raises:
        CannotBuild: it has too many parameters.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for part in everywhere(config):
            # grouped products know no float64
            part._experts_implementation = "eager"
        config = _own(architecture, config)
        _refuse_large(architecture, config)
        model = architecture(config).eval().requires_grad_(False)
        model = model.to(torch.get_default_dtype())
        randomize(model, torch.default_generator)
        _fill_codebooks(model)
    return model


def _fill_codebooks(model: Any) -> None:
    """Give codebooks that are kept as buffers, and begin as zeros, codes to choose from."""
    for name, buffer in model.named_buffers():
        if name.split(".")[-1].startswith("embed") and buffer.dim() > 1 and not buffer.any():
            buffer.normal_()


def _soften(model: Any, prefix: Optional[str]) -> None:
    """Make the weights whose names begin with `prefix` small."""
    for name, parameter in model.named_parameters():
        if prefix and name.startswith(prefix):
            parameter.mul_(SOFT)


def _refuse_large(architecture: Any, config: Any) -> None:
    """Raise `CannotBuild` for a model of too many parameters, without making them where torch can do so."""
    import torch

    if not hasattr(torch.device, "__enter__"):  # torch < 2.0
        return
    with torch.device("meta"):
        try:
            size = sum(parameter.numel() for parameter in architecture(config).parameters())
        except (NotImplementedError, RuntimeError):  # it reads values, as Swin's does in transformers 4: made for real
            return
    if size > MOST_PARAMETERS:
        raise CannotBuild(f"{size / 1e6:.0f} M parameters are more than {MOST_PARAMETERS / 1e6:.0f} M")


def found_class(entry: Entry, transformers: Any) -> Any:
    """Return the class of an entry; a few are registered by a name that transformers does not export."""
    if hasattr(transformers, entry.architecture):
        return getattr(transformers, entry.architecture)
    home = config_class(entry.model_type).__module__.replace(".configuration_", ".modeling_")
    return getattr(importlib.import_module(home), entry.architecture)


def _own(architecture: Any, config: Any) -> Any:
    """Return the part of a configuration that the class is made from: a few are registered for the whole."""
    wanted = getattr(architecture, "config_class", None)
    if wanted is None or isinstance(config, wanted):
        return config
    return next((part for part in everywhere(config) if isinstance(part, wanted)), config)


def inputs(entry: Entry, model: Any, samples: int, length: int, seed: int, **how: Any) -> Batch:
    """Return a batch for the model, in its dtype; `how` is `scale` and `uneven`, see `Feed`."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    facts: Mapping[str, Any] = facts_of(entry)
    before = torch.get_default_dtype()
    length = max(length, facts.get("least", 0))
    how = {**how, "model_type": entry.model_type, "role": entry.part}
    feed = Feed(model, samples, length, generator, facts=facts, **how)
    for draw in DRAWERS:
        draw(feed)
        feed.batch = feed.batch.cast(before)
    feed.batch.shared.update(facts.get("shared", {}))
    return feed.batch
