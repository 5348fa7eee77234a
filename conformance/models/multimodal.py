"""CLIP and its halves: one encoder per modality, and logits that compare every sample with every other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, Tuple

from conformance.models.model import Model
from conformance.models.text import TRANSFORMER
from conformance.models.text_inputs import right_padded_with_end
from conformance.models.upstream import random_model
from conformance.models.vision import VIT, images

if TYPE_CHECKING:
    import torch

    from conformance.models.model import Inputs

JOINT: Dict[str, Any] = {"projection_dim": 16}
LENGTHS = (3, 4, 7)
LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


def captioned_images(samples: int, length: int, generator: torch.Generator) -> Inputs:
    """Return captions of `length` tokens, each with an image of its own."""
    captions = right_padded_with_end(samples, length, generator)
    return {**captions, **images(samples, VIT["image_size"], generator)}


MULTIMODAL: Tuple[Model, ...] = (
    Model(
        name="clip",
        architecture="CLIPModel",
        build=random_model("CLIPModel", "CLIPConfig", {"text_config": TRANSFORMER, "vision_config": VIT, **JOINT}),
        inputs=captioned_images,
        targets=(*LAYERS, "patch_embedding"),
        saved=("text_projection", "visual_projection"),
        tags=frozenset({"text", "image", "contrastive"}),
        lengths=LENGTHS,
    ),
    Model(
        name="clip-text",
        architecture="CLIPTextModelWithProjection",
        build=random_model("CLIPTextModelWithProjection", "CLIPTextConfig", {**TRANSFORMER, **JOINT}),
        inputs=right_padded_with_end,
        targets=(*LAYERS, "token_embedding"),
        saved=("text_projection", "final_layer_norm"),
        tags=frozenset({"text"}),
        lengths=LENGTHS,
    ),
    Model(
        name="clip-vision",
        architecture="CLIPVisionModelWithProjection",
        build=random_model("CLIPVisionModelWithProjection", "CLIPVisionConfig", {**VIT, **JOINT}),
        inputs=images,
        targets=(*LAYERS, "patch_embedding"),
        saved=("visual_projection", "post_layernorm"),
        tags=frozenset({"image"}),
        lengths=(VIT["image_size"],),
    ),
)
