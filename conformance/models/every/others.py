"""Every other argument, by its name: what no modality owns but some model requires."""

from __future__ import annotations

from typing import Any, Callable, Dict, Tuple

from conformance.models.every.feed import Feed


def _ids(feed: Feed) -> Any:
    return feed.whole(*feed.words, feed.samples, feed.length)


def _boxes(feed: Feed) -> Any:
    import torch

    tokens = feed.batch.tensors["input_ids"].shape
    if feed.setting("relative_bias_args") is not None:  # udop's are fractions of the page
        return torch.sort(torch.rand(*tokens, 4, generator=feed.generator)).values
    return torch.sort(feed.whole(0, 60, *tokens, 4)).values


def _states(feed: Feed) -> Any:
    """Return hidden states of the model's width."""
    return feed.noise(feed.samples, feed.length, feed.setting("hidden_size", "d_model"))


def _past(feed: Feed) -> Any:
    """Return the past of a time series: one channel, or as many as the model has."""
    length = feed.setting("context_length", default=32)
    lags = feed.setting("lags_sequence")
    if lags is not None:
        length += max(lags)
    channels = feed.setting("num_input_channels")
    return feed.noise(feed.samples, length) if channels is None else feed.noise(feed.samples, length, channels)


def _time(feed: Feed, length: int) -> Any:
    return feed.noise(feed.samples, length, feed.setting("num_time_features", default=1))


def _length(feed: Feed) -> int:
    return int(feed.batch.tensors["past_values"].shape[1])


def _points(feed: Feed) -> Any:
    import torch

    return torch.rand(feed.samples, 2, 1, 2, generator=feed.generator) * 32


def _image_places(feed: Feed) -> Any:
    """Return which tokens, after the first, make room for an image."""
    places = feed.batch.tensors["input_ids"] * 0
    places[:, 1 : 1 + feed.setting("latent_query_num")] = 1
    return places


DRAWERS: Dict[str, Callable[[Feed], Any]] = {
    "bbox": _boxes,
    "past_values": _past,
    "past_time_features": lambda feed: _time(feed, _length(feed)),
    "past_observed_mask": lambda feed: feed.noise(*feed.batch.tensors["past_values"].shape) * 0 + 1,
    "past_values_padding": lambda feed: feed.whole(0, 1, *feed.batch.tensors["past_values"].shape),
    "freq": lambda feed: feed.whole(0, 3, feed.samples, 1),
    "future_values": lambda feed: feed.noise(feed.samples, feed.setting("prediction_length")),
    "future_time_features": lambda feed: _time(feed, feed.setting("prediction_length")),
    "query_embeds": _states,
    "noise_embeds": _states,
    "action_embeds": _states,
    "context_hidden_states": _states,
    "inputs_embeds": _states,
    "inputs": lambda feed: feed.noise(feed.samples, feed.length, feed.setting("d_model")),
    "input_points": _points,
    "task_inputs": lambda feed: feed.whole(*feed.words, feed.samples, feed.setting("task_seq_len")),
    "visual_feats": lambda feed: feed.noise(feed.samples, 5, feed.setting("visual_feat_dim")),
    "visual_pos": lambda feed: feed.noise(feed.samples, 5, 4),
    "states": lambda feed: feed.noise(feed.samples, feed.length, feed.setting("state_dim")),
    "actions": lambda feed: feed.noise(feed.samples, feed.length, feed.setting("act_dim")),
    "rewards": lambda feed: feed.noise(feed.samples, feed.length, 1),
    "returns_to_go": lambda feed: feed.noise(feed.samples, feed.length, 1),
    "timesteps": lambda feed: feed.whole(0, 50, feed.samples, feed.length),
    "encoder_hidden_states": lambda feed: feed.noise(feed.samples, 5, feed.setting("encoder_hidden_size")),
    "state": lambda feed: feed.noise(feed.samples, feed.setting("max_state_dim")),
    "noise": lambda feed: feed.noise(feed.samples, feed.setting("chunk_size"), feed.setting("max_action_dim")),
    "timestep": lambda feed: feed.noise(feed.samples).abs() % 1.0,
    "latents": lambda feed: feed.noise(feed.samples, feed.setting("hidden_size"), 8),
    "image_embeds_position_mask": _image_places,
    "image_attention_mask": lambda feed: feed.whole(1, 2, *feed.batch.tensors["input_ids"].shape, 1),
}
"""By the argument's name, what it is given where a model requires it."""

BESIDE: Dict[str, Callable[[Feed], Any]] = {
    "qformer_input_ids": _ids,
    "prompt_pixel_values": lambda feed: feed.noise(*feed.batch.tensors["pixel_values"].shape),
    "prompt_masks": lambda feed: feed.noise(*feed.batch.tensors["pixel_values"].shape),
    "image_merge_sizes": lambda feed: feed.batch.tensors["image_grid_thw"][:, 0] * 0 + 2,
    "merge_sizes": lambda feed: feed.batch.tensors["grid_thw"][:, 0] * 0 + 2,
    "high_res_pixel_values": lambda feed: feed.noise(feed.samples, 3, 32, 32),
    "pixel_attention_mask": lambda feed: _of_images(feed).bool(),
    "chunk_sample_lengths": lambda feed: feed.whole(10240, 10241, feed.samples),
    "aspect_ratio_ids": lambda feed: _of_images(feed),
    "aspect_ratio_mask": lambda feed: _of_images(feed, feed.facts.get("tiles", 1)),
    "padding_mask": lambda feed: feed.whole(1, 2, feed.samples, feed.facts.get("waveform", 1600)),
}
"""By the argument's name, what stands beside an image or a sound."""


def _of_images(feed: Feed, *shape: int) -> Any:
    """Return ones for each image of each sample."""
    images = feed.facts.get("images_each", 1)
    return feed.whole(1, 2, feed.samples, images, *shape)


WITH: Dict[str, Tuple[str, ...]] = {
    "past_time_features": ("future_values", "future_time_features"),
}
"""Arguments that are drawn, though not required, wherever the one they belong to was."""

ALWAYS = (
    "bbox",
    "visual_feats",
    "visual_pos",
    "states",
    "actions",
    "rewards",
    "returns_to_go",
    "timesteps",
    "input_points",
)
"""Arguments that are drawn wherever a model has them: it fails without, though its signature does not say so."""


def draw_beside(feed: Feed) -> None:
    """Draw what belongs to images and sounds: how many tokens they take in a text depends on it."""
    for name, drawer in BESIDE.items():
        if feed.requires(name) and _has_leader(feed, name):
            feed.put(name, drawer(feed))
            leader = next((grid for grid in ("image_grid_thw", "grid_thw") if grid in feed.batch.packed), None)
            if name.endswith("merge_sizes") and leader:
                feed.batch.packed[name] = feed.batch.packed[leader]


def _has_leader(feed: Feed, name: str) -> bool:
    """Whether there is anything for the argument to stand beside."""
    return bool(feed.batch.tensors) or name == "qformer_input_ids"


def draw(feed: Feed) -> None:
    """Draw what is required still; raise `LookupError` naming an argument that nothing knows how to draw."""
    for name, drawer in DRAWERS.items():
        if feed.requires(name) or (name in ALWAYS and feed.wants(name)) or _accompanies(feed, name):
            feed.put(name, drawer(feed))
    missing = [name for name, required in feed.parameters.items() if required and feed.wants(name)]
    if missing:
        raise LookupError(f"nothing knows how to draw the argument {missing[0]!r}")


def _accompanies(feed: Feed, name: str) -> bool:
    return feed.wants(name) and any(name in WITH[leader] for leader in WITH if leader in feed.batch.tensors)
