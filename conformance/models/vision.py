"""Image models: plain, folding windows or patches into the batch dimension, classifying."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, Tuple

from conformance.models.model import Model
from conformance.models.upstream import random_model, source_says

if TYPE_CHECKING:
    import torch

    from conformance.models.model import Inputs

VIT: Dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}

MOBILEVIT: Dict[str, Any] = {
    "image_size": 64,
    "patch_size": 2,
    "hidden_sizes": [16, 24, 32],
    "neck_hidden_sizes": [4, 8, 8, 16, 16, 16, 32],
    "num_attention_heads": 2,
    "expand_ratio": 1.0,
    "num_labels": 3,
}

SWIN: Dict[str, Any] = {
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 8,
    "depths": [2, 2],  # every second block shifts its windows
    "num_heads": [2, 2],
    "window_size": 4,
}

BERT_NAMES = ("query", "key", "value", "attention.output.dense", "intermediate.dense")
LLAMA_NAMES = ("q_proj", "k_proj", "v_proj", "o_proj", "fc1")

MOBILEVIT_LAYERS = (*BERT_NAMES, "conv_kxk.convolution", "conv_projection.convolution", "fusion.convolution")


def _layers(family: str) -> Tuple[str, ...]:
    """Return what the installed transformers calls the layers of `family`'s blocks."""
    # Breakpoint: huggingface/transformers#41693 (vision models took llama's names)
    renamed = source_says(f"models/{family}/modeling_{family}.py", "self.q_proj = ")
    return LLAMA_NAMES if renamed else BERT_NAMES


def images(samples: int, length: int, generator: torch.Generator) -> Inputs:
    """Return images of `length` by `length` pixels: a colour, tiles of 8 by 8 pixels, and noise.

    Pure noise averages out: a pooled output would hardly tell the images apart, nor attention the patches.
    """
    import torch

    pixels = torch.zeros(samples, 3, length, length)
    for size in (length, 8, 1):
        tiles = torch.randn(samples, 3, length // size, length // size, generator=generator)
        pixels += tiles.repeat_interleave(size, dim=2).repeat_interleave(size, dim=3)
    return {"pixel_values": pixels}


VISION: Tuple[Model, ...] = (
    Model(
        name="vit",
        architecture="ViTModel",
        build=random_model("ViTModel", "ViTConfig", VIT),
        inputs=images,
        targets=(*_layers("vit"), "patch_embeddings.projection"),
        saved=("pooler", "layernorm"),
        tags=frozenset({"image"}),
        lengths=(VIT["image_size"],),
    ),
    Model(
        name="mobilevit",
        architecture="MobileViTModel",
        build=random_model("MobileViTModel", "MobileViTConfig", MOBILEVIT),
        inputs=images,
        targets=MOBILEVIT_LAYERS,
        saved=("conv_1x1_exp", "layernorm"),
        tags=frozenset({"image", "folds-batch", "rounds-coarsely"}),
        lengths=(MOBILEVIT["image_size"],),
    ),
    Model(
        name="mobilevit-image-classification",
        architecture="MobileViTForImageClassification",
        build=random_model("MobileViTForImageClassification", "MobileViTConfig", MOBILEVIT),
        inputs=images,
        targets=MOBILEVIT_LAYERS,
        saved=("classifier", "conv_1x1_exp"),
        tags=frozenset({"image", "folds-batch", "classifies"}),
        lengths=(MOBILEVIT["image_size"],),
    ),
    Model(
        name="swin",
        architecture="SwinModel",
        build=random_model("SwinModel", "SwinConfig", SWIN),
        inputs=images,
        targets=(*_layers("swin"), "reduction", "patch_embeddings.projection"),
        saved=("layernorm", "embeddings.norm"),
        tags=frozenset({"image", "folds-batch"}),
        lengths=(SWIN["image_size"],),
    ),
)
