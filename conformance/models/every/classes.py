"""Which classes exist: a base class and one head for every model type that the installed transformers registers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Tuple

BASE_PART, HEAD_PART = "base", "head"

HEADS = (
    "MULTIMODAL_LM",
    "IMAGE_TEXT_TO_TEXT",
    "VISION_2_SEQ",
    "SPEECH_SEQ_2_SEQ",
    "SEQ_TO_SEQ_CAUSAL_LM",
    "CAUSAL_LM",
    "CTC",
    "RNNT",
    "TDT",
    "SEQUENCE_CLASSIFICATION",
    "MASKED_LM",
    "IMAGE_CLASSIFICATION",
    "OBJECT_DETECTION",
    "SEMANTIC_SEGMENTATION",
    "INSTANCE_SEGMENTATION",
    "UNIVERSAL_SEGMENTATION",
    "DEPTH_ESTIMATION",
    "AUDIO_CLASSIFICATION",
    "VIDEO_CLASSIFICATION",
    "TEXT_TO_WAVEFORM",
    "TEXT_TO_SPECTROGRAM",
)
"""The tasks whose head is taken, the first that a type has; after these, any other task by name."""

_NO_HEAD = ("BACKBONE", "TEXT_ENCODING", "IMAGE", "PRETRAINING", "MASK_GENERATION")
"""Mappings of `MODEL_FOR_…` that give a base class by another name, or a sum of losses; taken last."""


@dataclass(frozen=True)
class Entry:
    """One class of transformers to build: `every:TYPE` is its base class, `every:TYPE+head` its head."""

    model_type: str
    part: str
    architecture: str
    """The class's name; "" for a type that no class of its own is registered for."""

    @property
    def name(self) -> str:
        """The id in reports and on the command line."""
        return f"every:{self.model_type}" + ("" if self.part == BASE_PART else f"+{self.part}")


def entries() -> List[Entry]:
    """Return every entry, sorted by name; reads transformers' own tables and imports no model's module."""
    from transformers.models.auto import configuration_auto, modeling_auto

    bases: Dict[str, Any] = dict(modeling_auto.MODEL_MAPPING_NAMES)
    found = [Entry(model_type, BASE_PART, _first(value)) for model_type, value in bases.items()]
    seen = {(entry.model_type, entry.architecture) for entry in found}
    for _, mapping in _heads(modeling_auto):
        for model_type, value in mapping.items():
            architecture = _first(value)
            if (model_type, architecture) not in seen and (model_type, HEAD_PART) not in seen:
                seen |= {(model_type, architecture), (model_type, HEAD_PART)}
                found.append(Entry(model_type, HEAD_PART, architecture))
    with_class = {entry.model_type for entry in found}
    configured = configuration_auto.CONFIG_MAPPING_NAMES
    found += [Entry(model_type, BASE_PART, "") for model_type in configured if model_type not in with_class]
    return sorted(found, key=lambda entry: entry.name)


def config_class(model_type: str) -> Any:
    """Return the configuration class of a type; raise `ImportError` or the like where it cannot be had."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return CONFIG_MAPPING[model_type]


def _heads(auto: Any) -> Iterator[Tuple[str, Dict[str, Any]]]:
    """Yield (task, {type: class}), the preferred tasks first and those in `_NO_HEAD` last."""
    prefix, suffix = "MODEL_FOR_", "_MAPPING_NAMES"
    tasks = sorted(
        name[len(prefix) : -len(suffix)] for name in dir(auto) if name.startswith(prefix) and name.endswith(suffix)
    )
    others = [task for task in tasks if task not in HEADS and task not in _NO_HEAD]
    for task in (*HEADS, *others, *_NO_HEAD):
        mapping = getattr(auto, prefix + task + suffix, None)
        if mapping:
            yield task, dict(mapping)


def _first(value: Any) -> str:
    """Return the class of a mapping's value, which for a few types is several."""
    return value if isinstance(value, str) else str(value[0])
