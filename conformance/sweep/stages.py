"""The stages in which a model's layers are adapted."""

from __future__ import annotations

from typing import Dict

STAGES: Dict[str, str] = {
    "linear_layers": "every Linear and Conv1D",
    "embeddings_and_convolutions": "these and every Embedding and convolution of one group",
    "fused_experts": "every Linear and the parameters of fused experts",
}
"""The stages in their order, and what each adapts."""
