"""The stages in which a model's layers are adapted."""

from __future__ import annotations

from typing import Dict, Tuple

STAGES: Dict[str, str] = {
    "linear_layers": "every Linear and Conv1D",
    "embeddings_and_convolutions": "these and every Embedding and convolution of one group",
    "fused_experts": "every Linear and the parameters of fused experts",
    "generate": "every Linear and Conv1D, of what the model generates: the logits of four tokens",
}
"""The stages in their order, and what each adapts."""

METHOD_STAGE = "adapter_method"
"""The one stage of a method: what it adapts is its own affair."""


def stages_of(name: str) -> Tuple[str, ...]:
    """Return the stages that the sweep judges the entry called `name` in."""
    return (METHOD_STAGE,) if name.startswith("method:") else tuple(STAGES)
