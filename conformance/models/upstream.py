"""What we ask of the installed transformers: its classes, and how its modules are called."""

from __future__ import annotations

from copy import deepcopy
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Mapping

from conformance.models.random_weights import randomize

if TYPE_CHECKING:
    import torch

    from conformance.models.model import Build


def source_says(file: str, words: str) -> bool:
    """Tell whether the installed transformers has `words` in its source `file`, without importing it.

    Module names are part of no API, and moved between minor releases: the source is the capability.
    """
    package = util.find_spec("transformers")
    for folder in (package and package.submodule_search_locations) or ():
        source = Path(folder) / file
        if source.is_file():
            return words in source.read_text(encoding="utf-8")
    return False


def attends_with_sdpa(architecture: str) -> bool:
    """Tell whether `architecture` attends by torch's `scaled_dot_product_attention` unless told otherwise."""
    import transformers

    # Breakpoint: huggingface/transformers#26572 (introduced for some architectures, and torch >= 2.1.1)
    available = getattr(transformers.utils, "is_torch_sdpa_available", lambda: True)
    return bool(available() and getattr(transformers, architecture)._supports_sdpa)


def random_model(architecture: str, config: str, fields: Mapping[str, Any]) -> Build:
    """Return a builder of transformers' class `architecture` from its class `config` with `fields`."""

    def build() -> torch.nn.Module:
        import torch
        import transformers

        # A configuration may keep, and change, the dictionaries that it is given.
        model = getattr(transformers, architecture)(getattr(transformers, config)(**deepcopy(dict(fields))))
        module: torch.nn.Module = model.float().eval()
        randomize(module, torch.default_generator)
        return module

    return build
