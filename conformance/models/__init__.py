"""Tiny random models of every modality, as data. Importing this imports neither torch nor transformers."""

from __future__ import annotations

from typing import Dict

from conformance.models.audio import AUDIO
from conformance.models.exact import EXACT
from conformance.models.model import Inputs, Model
from conformance.models.multimodal import MULTIMODAL
from conformance.models.own import own_model
from conformance.models.text import TEXT
from conformance.models.vision import VISION
from conformance.selection import OWN

__all__ = ["MODELS", "Inputs", "Model", "model_named"]

MODELS: Dict[str, Model] = {model.name: model for model in EXACT + TEXT + VISION + AUDIO + MULTIMODAL}
"""Every model by name, simplest first."""


def model_named(name: str) -> Model:
    """Return the model called `name`, `own:…` among them; raise `KeyError` naming those that exist."""
    if name.startswith(OWN):
        return own_model(name)
    if name not in MODELS:
        raise KeyError(f"no model is called {name!r}; there are {', '.join(MODELS)}")
    return MODELS[name]
