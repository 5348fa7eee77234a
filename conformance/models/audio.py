"""Audio models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, Tuple

from conformance.models.model import Model
from conformance.models.text_inputs import END, SPECIAL, START, VOCABULARY, decoder_ids
from conformance.models.upstream import random_model

if TYPE_CHECKING:
    import torch

    from conformance.models.model import Inputs

MELS, POSITIONS = 8, 10

WHISPER: Dict[str, Any] = {
    **SPECIAL,
    "pad_token_id": END,  # as in every published Whisper; generation miscounts other padding
    "decoder_start_token_id": START,
    "vocab_size": VOCABULARY,
    "num_mel_bins": MELS,
    "max_source_positions": POSITIONS,
    "max_target_positions": 64,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    # The defaults suppress ids of the real vocabulary, which ours does not have.
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
}


def spectrograms(samples: int, length: int, generator: torch.Generator) -> Inputs:
    """Return noise of Whisper's one size, each about a pitch of its own, and `length` + 1 ids to decode."""
    import torch

    pitches = torch.randn(samples, MELS, 1, generator=generator)
    return {
        "input_features": pitches + torch.randn(samples, MELS, 2 * POSITIONS, generator=generator),
        "decoder_input_ids": decoder_ids(samples, length, generator, START),
    }


AUDIO: Tuple[Model, ...] = (
    Model(
        name="whisper",
        architecture="WhisperForConditionalGeneration",
        build=random_model("WhisperForConditionalGeneration", "WhisperConfig", WHISPER),
        inputs=spectrograms,
        targets=("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
        saved=("encoder.layer_norm", "decoder.layer_norm"),
        tags=frozenset({"audio", "encoder-decoder", "generates"}),
        lengths=(3, 4, 6),
    ),
)
