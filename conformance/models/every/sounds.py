"""Sound: waveforms and spectrograms."""

from __future__ import annotations

from conformance.models.every.feed import Feed
from conformance.models.every.sizes import MELS

WAVEFORMS = ("input_values",)
SPECTROGRAMS = ("input_features", "audio_input_features", "audio_mel", "audio_values")
FRAMES = 64


def draw(feed: Feed) -> None:
    """Draw the arguments that hold sound, where the model hears."""
    for name in WAVEFORMS:
        if feed.wants(name) and _hears(feed, name):
            if feed.facts.get("sound") == "spectrogram":
                feed.put(name, feed.noise(feed.samples, feed.setting("max_length"), feed.setting("num_mel_bins")))
                continue
            samples = feed.facts.get("waveform", 1600)
            wave = feed.noise(feed.samples, 1) + feed.noise(feed.samples, samples)
            feed.put(name, wave if not _mono(feed) else wave.unsqueeze(1))
    for name in SPECTROGRAMS:
        if feed.wants(name) and _hears(feed, name):
            _spectrogram(feed, name)


def _hears(feed: Feed, name: str) -> bool:
    main = getattr(feed.model, "main_input_name", "")
    if "audio_config" in vars(feed.config) and feed.config.audio_config is None:
        return False
    hearing = feed.part("audio", "speech", "encoder_config", "encodec") is not None
    return feed.parameters[name] or main == name or hearing or name in feed.facts.get("also", ())


def _mono(feed: Feed) -> bool:
    """Whether waveforms have a dimension for their one channel, as codecs of sound want."""
    signs = ("audio_channels", "hop_length", "upsampling_ratios", "downsampling_ratios")
    return feed.setting(*signs) is not None


def _spectrogram(feed: Feed, name: str) -> None:
    """Draw (samples, mels, frames), or the other way round where the facts say so, and the masks beside it."""
    import torch

    audio = feed.part("audio", "speech", "encoder")
    mels = feed.facts.get("mels") or feed.setting(
        "num_mel_bins",
        "n_mels",
        "input_feat_per_channel",
        "feature_size",
        "input_feat_size",
        "input_dim",
        "feature_projection_input_dim",
        default=MELS,
        within=audio,
    )
    frames = feed.facts.get("frames_of_sound", FRAMES)
    positions = feed.setting("max_source_positions", within=audio)
    whisper = positions is not None and feed.setting("num_mel_bins", within=audio) is not None
    if "frames_of_sound" not in feed.facts and whisper:
        frames = 2 * positions
    sound = feed.noise(feed.samples, mels, 1) + feed.noise(feed.samples, mels, frames)
    if feed.facts.get("sound") == "image":
        feed.put(name, sound.transpose(1, 2).unsqueeze(1).contiguous())
        return
    feed.put(name, sound if feed.facts.get("mels_first", whisper) else sound.transpose(1, 2).contiguous())
    for mask in ("input_features_mask", "feature_attention_mask", "audio_mel_mask", "audio_attention_mask"):
        if feed.wants(mask):
            dtype = getattr(torch, feed.facts.get("mask_dtype", "long"))
            value = feed.facts.get("mask_value", 1)
            feed.put(mask, torch.full((feed.samples, frames), value, dtype=dtype))
