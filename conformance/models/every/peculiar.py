"""Arguments that one model type wants in a shape of its own: drawn before what their names would say."""

from __future__ import annotations

from typing import Any, Callable, Dict

from conformance.models.every.feed import Feed

Drawer = Callable[[Feed], Any]


def _codes(feed: Feed) -> Any:
    """Return a text token and a token of every codebook for each step."""
    return feed.whole(20, 100, feed.samples, feed.length, 1 + feed.setting("num_codebooks"))


def _channels_last(feed: Feed) -> Any:
    """Return two frames for each sample, channels last."""
    return feed.noise(feed.samples, 2, 32, 32, 3)


def _widths(feed: Feed) -> Any:
    return feed.noise(feed.samples, feed.length, feed.setting("hidden_size"))


def _flattened_patches(feed: Feed) -> Any:
    """Return rows of a patch, each after the row and the column that it is in."""
    import torch

    places = feed.whole(1, 5, feed.samples, 16, 2).to(torch.get_default_dtype())
    return torch.cat([places, feed.noise(feed.samples, 16, feed.setting("patch_embed_hidden_size"))], dim=-1)


def _cameras(feed: Feed) -> Any:
    return feed.noise(feed.samples, 1, 3, 32, 32)


def _positions(feed: Feed) -> Any:
    """Return the place of each of 16 patches in a square of four by four."""
    import torch

    rows = torch.arange(4)
    square = torch.stack(torch.meshgrid(rows, rows), dim=-1).reshape(1, 16, 2)
    return square.repeat(feed.samples, 1, 1)


def _patches(feed: Feed) -> Any:
    side = feed.setting("patch_size", within=feed.part("vision"))
    return feed.noise(feed.samples, 16, 3 * side * side)


def _side_by_side(feed: Feed) -> Any:
    """Return the 16 patches of every image as one image, one patch high."""
    import torch

    side = feed.setting("patch_size", within=feed.part("vision"))
    parts = [feed.noise(1, 3, side, 16 * side) for _ in range(feed.samples)]
    feed.batch.packed["pixel_values"], feed.batch.along["pixel_values"] = [16 * side] * feed.samples, 3
    return torch.cat(parts, dim=3)


def _four_by_four(feed: Feed) -> Any:
    return feed.whole(4, 5, feed.samples, 2)


def _four_by_four_thw(feed: Feed) -> Any:
    import torch

    return torch.tensor([[1, 4, 4]] * feed.samples)


def _codebooks(feed: Feed) -> Any:
    """Return a row of tokens for every codebook of each sample."""
    rows = feed.setting("num_codebooks")
    feed.batch.packed["input_ids"] = [rows] * feed.samples
    return feed.whole(20, 100, feed.samples * rows, feed.length)


_NAVIT: Dict[str, Drawer] = {"pixel_values": _side_by_side, "target_sizes": _four_by_four}

PECULIAR: Dict[str, Dict[str, Drawer]] = {
    "colqwen2": {
        "pixel_values": lambda feed: feed.noise(feed.samples, 16, 384),
        "image_grid_thw": _four_by_four_thw,
    },
    "dia": {"decoder_input_ids": lambda feed: feed.whole(20, 100, feed.samples, 5, 9)},
    "gemma4_vision": {"pixel_values": _patches, "pixel_position_ids": _positions},
    "inkling_mm_model": {
        "pixel_values": _channels_last,
        "audio_input_ids": lambda feed: feed.whole(0, 8, feed.samples, 4, feed.setting("n_mel_bins", default=16)),
    },
    "gemma4": {"pixel_values": _patches, "image_position_ids": _positions},
    "gemma4_unified": {
        "pixel_values": lambda feed: feed.noise(feed.samples, 16, 3 * 24 * 24),
        "image_position_ids": _positions,
    },
    "musicgen": {"input_ids": _codebooks},
    "musicgen_melody": {"input_ids": _codebooks},
    "kyutai_speech_to_text": {"input_ids": _codes},
    "minicpm_ocr": _NAVIT,
    "minicpm_ocr_vision": _NAVIT,
    "minicpmv4_6": _NAVIT,
    "minicpmv4_7": _NAVIT,
    "minicpmv4_7_vision": _NAVIT,
    "muse_glimmer_assistant": {"context_hidden_states": lambda feed: feed.noise(feed.samples, feed.length, 256)},
    "pi0": {
        "pixel_values": _cameras,
        "pixel_attention_mask": lambda feed: feed.whole(1, 2, feed.samples, 1).bool(),
    },
    "pix2struct": {"flattened_patches": _flattened_patches},
    "kosmos-2.5": {"flattened_patches": _flattened_patches},
    "speecht5+base": {"input_values": _widths, "decoder_input_values": _widths},
    "vibevoice_acoustic_tokenizer_encoder": {"hidden_states": lambda feed: feed.noise(feed.samples, 1, 6400)},
    "vibevoice_acoustic_tokenizer_decoder": {"hidden_states": lambda feed: feed.noise(feed.samples, 64, 2)},
}
"""By model type, or by type and part, and argument."""


def draw(feed: Feed) -> None:
    """Draw the arguments that only this type has in such a shape."""
    named = {**PECULIAR.get(feed.model_type, {}), **PECULIAR.get(f"{feed.model_type}+{feed.role}", {})}
    for name, drawer in named.items():
        if feed.wants(name):
            feed.put(name, drawer(feed))
