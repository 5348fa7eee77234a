"""`adapter_names` of a transformers pipeline: taken for a tokenizer's keyword and ignored, or given to every batch."""

from __future__ import annotations

import inspect
from typing import Sequence

from shim.patch import Patch, Replacement


def is_broken() -> bool:
    """Tell whether pipelines know nothing of `adapter_names`."""
    try:
        from transformers.pipelines.base import Pipeline
    except Exception:  # what pipelines import, such as torchvision, may be unfit here: nobody can use them then
        return False
    return "adapter_names" not in inspect.signature(Pipeline.__call__, follow_wrapped=False).parameters


def replacements() -> Sequence[Replacement]:
    """Let each input of a pipeline take its name along, through batches of any size."""
    from transformers.pipelines.base import Pipeline

    from shim.pipelines import call_with_adapter_names

    return [Replacement(Pipeline, "__call__", call_with_adapter_names(vars(Pipeline)["__call__"]))]


PATCH = Patch(
    name="pipeline_adapter_names",
    defect="adapter_names of a pipeline are ignored by the tokenizer that gets them, or given whole to every batch",
    breakpoint="none yet; huggingface/transformers#25077 (4.33) brought adapters to pipelines",
    distribution="transformers",
    affected=">=4.33",
    clauses=("L5", "F5"),
    check="a_pipeline_gives_each_text_its_own_adapter",
    is_broken=is_broken,
    replacements=replacements,
)
