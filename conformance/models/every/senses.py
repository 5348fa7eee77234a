"""Which of its senses a model was fed: a model that could see and was shown text alone is not all of itself."""

from __future__ import annotations

import inspect
from typing import Any, Dict, List, Tuple

from conformance.models.every.batch import Batch
from conformance.models.every.pictures import PIXELS
from conformance.models.every.sounds import SPECTROGRAMS, WAVEFORMS

SENSES: Dict[str, Tuple[str, ...]] = {
    "images or videos": (*PIXELS, "pixel_values_images", "pixel_values_videos", "flattened_patches"),
    "sound": (*WAVEFORMS, *SPECTROGRAMS, "audio_input_ids"),
}
"""By sense the arguments that bring it."""


def unfed(model: Any, batch: Batch) -> List[str]:
    """Return the senses that `model` has arguments for and that `batch` brings nothing to."""
    known = inspect.signature(model.forward).parameters
    return [
        sense
        for sense, names in SENSES.items()
        if any(name in known for name in names) and not any(name in batch.tensors for name in names)
    ]
