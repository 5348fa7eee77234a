"""What the generic way cannot know: facts of single configurations and types, as few as can be."""

from __future__ import annotations

from typing import Any, Dict, Mapping

from conformance.models.every.classes import Entry

_RESNET: Dict[str, Any] = {
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
    "backbone": None,
    "backbone_config": {
        "model_type": "resnet",
        "embedding_size": 16,
        "hidden_sizes": [16, 16, 16, 16],
        "depths": [1, 1, 1, 1],
        "out_features": ["stage4"],
    },
}
"""A backbone of transformers' own where the default is one of timm, an optional package."""
_STAGES = {"out_features": ["stage2", "stage3", "stage4"]}
_RESNET3 = {**_RESNET, "backbone_config": {**_RESNET["backbone_config"], **_STAGES}}


def _letters(number: int) -> str:
    """Return a number with a letter for each digit, as Chameleon names its image tokens."""
    return "".join(chr(ord("A") + int(digit)) for digit in str(number))


_MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_chunk_size": 8}
_SERIES = {"prediction_length": 4, "context_length": 8, "num_time_features": 2, "lags_sequence": [1, 2]}
_SPARSE = {"mlp_layer_types": ["dense", "sparse"]}

_FOUR_LAYERS = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "patch_size": 8,
    "image_size": 32,
    "out_indices": [1, 2, 3, 4],
}

_SMALL_VIT = {**_FOUR_LAYERS, "model_type": "dinov2", "num_hidden_layers": 2, "image_size": 16, "out_indices": [2]}

_STRIPS: Dict[str, Any] = {"long": [[7, 1], [1, 7], 3], "mid": [[5, 1], [1, 5], 2], "short": [[3, 1], [1, 3], 1]}
_INTRACLASS: Dict[str, Any] = {
    "reduce_channel": [1, 1, 0],
    "return_channel": [1, 1, 0],
    **{f"vertical_long_to_small_conv_{k}ratio": [v, 1, [p, 0]] for k, (v, _, p) in _STRIPS.items()},
    **{f"horizontal_small_to_long_conv_{k}ratio": [h, 1, [0, p]] for k, (_, h, p) in _STRIPS.items()},
    **{f"symmetric_conv_long_{k}ratio": [2 * p + 1, 1, p] for k, (_, _, p) in _STRIPS.items()},
}
"""The convolutions of PP-OCR's detectors, which their default configurations leave out: (kernel, stride, padding)."""

CONFIGURATIONS: Dict[str, Dict[str, Any]] = {
    "align_vision_model": {"width_coefficient": 1.0, "depth_coefficient": 0.3, "hidden_dim": 64},
    "aria": {"projector_patch_to_query_dict": {16: 8}},
    "autoformer": {**_SERIES, "label_length": 4, "moving_average": 3},
    "bamba": {**_MAMBA, "attn_layer_indices": [1]},
    "bit": {"num_groups": 4},
    "chameleon": {
        "vocabulary_map": {"<image>": 150, **{f"IMGIMG{_letters(index)}Z": 20 + index for index in range(16)}},
        "vq_config": {
            "embed_dim": 8,
            "num_embeddings": 16,
            "base_channels": 32,
            "channel_multiplier": [1, 2],
            "resolution": 16,
            "num_res_blocks": 1,
            "latent_channels": 8,
        },
    },
    "clap_audio_model": {"depths": [2, 2], "num_attention_heads": [4, 4], "patch_embeds_hidden_size": 32},
    "clvp_decoder": {"hidden_size": 128, "projection_dim": 128},
    "clvp_encoder": {"hidden_size": 128, "projection_dim": 128},
    "clvp": {"projection_dim": 128},
    "chmv2": {"backbone_config": {"model_type": "dinov3_vit", "return_class_token": True, **_FOUR_LAYERS}},
    "conditional_detr": _RESNET,
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 1e4} for kind in ("sliding_attention", "full_attention")
        },
    },
    "cvt": {"depth": [1, 2, 3]},
    "dab-detr": _RESNET,
    "deformable_detr": _RESNET3,
    "detr": _RESNET,
    "table-transformer": _RESNET,
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
        "ffn_config": {"ffn_hidden_size": 96, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_ocr2_text": _SPARSE,
    "depth_pro": {
        "patch_size": 16,
        "intermediate_hook_ids": [1, 0],
        **{f"{part}_model_config": _SMALL_VIT for part in ("image", "patch", "fov")},
    },
    "diffusion_gemma": {"canvas_length": 8},
    "diffusion_gemma_text": {"global_head_dim": 32},
    "dots3_note_text": {"num_key_value_heads": 4},
    "dots3_note_vision_encoder": {"num_key_value_heads": 4},
    "efficientnet": {"width_coefficient": 0.05, "depth_coefficient": 0.3, "hidden_dim": 64},
    "embedding_gemma2_text": {"global_head_dim": 32},
    "gemma4_text": {"global_head_dim": 32},
    "gemma4_unified_text": {"global_head_dim": 32},
    "efficientloftr": {"num_attention_heads": 8},
    "emu3": {
        "vocabulary_map": {
            "<image>": 150,
            "<|extra_200|>": 151,
            **{f"<|visual token {code:06d}|>": 20 + code for code in range(16)},
        }
    },
    "emu3_vqgan": {"codebook_size": 16, "channel_multiplier": [1, 1, 1, 1]},
    "esm": {"pad_token_id": 1},
    "esmc": {"num_key_value_heads": 4},
    "glm5_next_text": {"num_key_value_heads": 4},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "max_position_embeddings": 128},
    "granitemoehybrid": {**_MAMBA, "layer_types": ["linear_attention", "full_attention"]},
    "informer": _SERIES,
    "FunAsrNanoAdaptorConfig": {"intermediate_size": 16},
    "gemma4": {"start": {"vision_config": {}}},
    "gemma4_unified": {"start": {"vision_config": {}}},
    "gemma4_vision": {"pooling_kernel_size": 2},
    "glmasr_encoder": {"intermediate_size": 256},
    "granite_speech": {"window_size": 4, "downsample_rate": 2},
    "granite_speech_plus": {"window_size": 4, "downsample_rate": 2},
    "granite4_vision": {
        "deepstack_layer_map": [[-1, 0]],
        "spatial_target_layers": [1, 1, 1, 1],
        "downsample_rate": "1/2",
    },
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "layoutlmv3": {"coordinate_size": 8, "shape_size": 16},
    "led": {"attention_window": [8, 8]},
    "levit": {"patch_size": 16},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "lilt": {"hidden_size": 96},
    "llama4_vision_model": {"intermediate_size": 256},
    "lw_detr": {"projector_scale_factors": [1.0]},
    "lw_detr_vit": {"num_windows": 4},
    "mamba2": {"num_heads": 8, "head_dim": 16, "n_groups": 2, "chunk_size": 8},
    **{name: {"insert_layer_id": 0} for name in ("minicpm_ocr", "minicpmv4_6", "minicpmv4_7", "minicpmv4_7_vision")},
    "mistral_large4_text": {
        "num_hidden_layers": 4,
        "no_rope_layers": [1, 1, 1, 0],
        "kv_source_layers": [0, 1, 1, 3],
        "indexer_types": ["full", "full", "shared", "full"],
        "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
    },
    "mllama_vision_model": {"vision_output_dim": 320},
    "molmo2_adapter": {"vision_feature_layer": [-1, -2]},
    "muse_glimmer": {"out_hidden_size": 256},
    "muse_spark": {"out_hidden_size": 256},
    "neucodec": {"quantization_dim": 128},
    "xcodec2": {"quantization_dim": 128},
    "moonshine": {"encoder_num_key_value_heads": 4, "decoder_num_key_value_heads": 4},
    "moonshine_streaming": {"num_key_value_heads": 4},
    "nemotron_h": {"mamba_num_heads": 8, "mamba_head_dim": 16, "n_groups": 2},
    "paddleocr_vl_text": {
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [3, 3, 2]}
    },
    "pp_doclayout_v2": {"class_thresholds": [0.5] * 3, "class_order": [0, 1, 2]},
    "pp_ocrv5_server_det": {"intraclass_block_config": _INTRACLASS, "kernel_list": [3, 2, 2]},
    "pp_ocrv5_server_rec": {"hidden_size": 8},
    "pp_ocrv6_medium_det": {"intraclass_block_config": _INTRACLASS},
    "qwen2_5_omni_thinker": {"vision_start_token_id": 112, "vision_end_token_id": 113},
    "qwen3_omni_moe_talker_text": {"shared_expert_intermediate_size": 96},
    "qwen3_omni_moe_thinker": {"vision_start_token_id": 112, "vision_end_token_id": 113},
    "qwen4_exp_text": {
        "indexer_budget": 8,
        "indexer_compress_ratio": 2,
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
    },
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {
        "attn_layers": ["local", "lsh"],
        "axial_pos_shape": [4, 8],
        "axial_pos_embds_dim": [32, 32],
        "local_attn_chunk_length": 4,
        "lsh_attn_chunk_length": 4,
        "num_buckets": 2,
        "hash_seed": 0,
        "max_position_embeddings": 32,
        "is_decoder": False,
    },
    "reformer+head": {"is_decoder": True},
    "sam2_hiera_det_model": {
        "embed_dim_per_stage": [64, 32, 64, 32],  # queries are pooled only where the width changes
        "global_attention_blocks": [4],
        "window_size_per_stage": [8, 4, 2, 2],
    },
    "sam3_tracker_video": {"image_size": 32},
    "sapiens2_head": {"upsample_out_channels": [16, 16], "conv_out_channels": [16]},
    "sam3_vision_model": {"backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]},
    "seggpt": {
        "image_size": [64, 32],
        "num_hidden_layers": 4,
        "intermediate_hidden_state_indices": [1, 2, 3],
        "merge_index": 0,
    },
    "sam2_vision_model": {
        "backbone_channel_list": [32, 64, 32, 64],
        "backbone_feature_sizes": [[8, 8], [4, 4], [2, 2]],
    },
    "edgetam_prompt_encoder": {"patch_size": 16},
    "sam2_prompt_encoder": {"patch_size": 16},
    "sam2_video_prompt_encoder": {"patch_size": 16},
    "edgetam_video_prompt_encoder": {"patch_size": 16},
    "step3p5": {"sliding_window": 8},
    "superpoint": {"keypoint_decoder_dim": 65},
    "t5gemma2_text": {"dropout_rate": 0.0},
    "tvp": {"max_img_size": 64, "visual_prompt_size": 16},
    "vibevoice_acoustic_tokenizer": {"num_filters": 4, "depths": [1, 1, 1, 1, 1, 1, 1]},
    "vibevoice_acoustic_tokenizer_encoder": {"num_filters": 4, "depths": [1, 1, 1, 1, 1, 1, 1]},
    "vibevoice_acoustic_tokenizer_decoder": {"num_filters": 4, "depths": [1, 1, 1, 1, 1, 1, 1]},
    "vibevoice_semantic_tokenizer": {"num_filters": 4, "depths": [1, 1, 1, 1, 1, 1, 1]},
    "time_series_transformer": _SERIES,
    "vipllava": {"vision_feature_layers": [-1, -2]},
    "voxtral_encoder": {"intermediate_size": 256},
    "uvdoc_backbone": {"out_features": [f"stage{stage}" for stage in range(1, 7)]},
    "vitdet": {"patch_size": 16, "image_size": 64},
    "vitmatte": {"convstream_hidden_sizes": [16, 16, 16], "fusion_hidden_sizes": [16, 16, 16, 16]},
    "xcodec": {"codebook_dim": 1088},
    "xlstm": {"qk_dim_factor": 1.0},
    "zamba": {
        "num_hidden_layers": 5,
        "attention_hidden_size": 128,
        "attention_head_dim": 32,
        "layers_block_type": ["linear_attention", "linear_attention", "hybrid", "linear_attention", "hybrid"],
    },
    "xmod": {"languages": ["en", "de"], "default_language": "en"},
}
"""By the `model_type` of a configuration, wherever it is nested: fields and what they are."""

TYPES: Dict[str, Dict[str, Any]] = {
    "audio-spectrogram-transformer": {"sound": "spectrogram"},
    "blip-2": {"places": {"image": 8}},
    "blip_2_qformer": {"also": ("encoder_hidden_states",)},
    "blt": {"shared": {"use_cache": False}},
    "chameleon": {"image": (16, 16)},
    "clap": {"sound": "image"},
    "clap_audio_model": {"sound": "image"},
    "colmodernvbert": {"images_each": 1},
    "colqwen2": {"places": {"image": 4}},
    "depth_pro": {"image": (64, 64)},
    "diffusion_gemma": {"also": ("decoder_input_ids",), "decoded": 8},
    "efficientloftr": {"frames": 2},
    "emu3": {"image": (32, 32)},
    "fun_asr_nano": {"mels": 112},
    "fun_asr_nano_encoder": {"mels": 112},
    "gemma3n_audio": {"mask_dtype": "bool", "mask_value": 0},
    "gemma4_audio": {"mels": 64},
    "glmasr": {"mels_first": True},
    "glmasr_encoder": {"mels_first": True},
    "granite_docling": {"images_each": 1, "also": ("pixel_attention_mask",)},
    "granite_speech": {"skip": ("input_features_mask",)},
    "granite_speech5_ctc": {"mels": 64},
    "granite_speech5_encoder": {"mels": 64},
    "granite_speech_plus": {"skip": ("input_features_mask",)},
    "idefics": {"images_each": 1, "also": ("image_attention_mask",)},
    "idefics2": {"images_each": 1},
    "idefics3": {"images_each": 1},
    "instructblip": {"places": {"image": 8}},
    "instructblipvideo": {"frames": 2, "places": {"image": 16}},
    "kimi_k25": {"square": True},
    "kimi_k25_vision": {"square": True},
    "kosmos-2": {"least": 12, "also": ("image_embeds_position_mask",), "padded": False},
    "kosmos-2.5": {"least": 12, "also": ("image_embeds_position_mask",), "padded": False},
    "lightglue": {"frames": 2},
    "mllama": {"images_each": 1, "tiles": 4, "also": ("aspect_ratio_ids", "aspect_ratio_mask")},
    "modernvbert": {"images_each": 1},
    "muse_spark": {"waveform": 1920},
    "muse_spark_audio": {"waveform": 1920},
    "musicflamingo": {"places": {"audio": 64}},
    "paddleocr_vl": {"square": True},
    "pi0": {"places": {"image": 16}, "skip": ("actions",), "also": ("state", "noise", "timestep")},
    "pp_ocrv5_mobile_rec": {"image": (96, 64)},
    "pp_ocrv5_server_rec": {"image": (96, 64)},
    "pp_ocrv6_tiny_rec": {"soften": "head.fc2."},
    "pe_audio": {"waveform": 6400},
    "pe_audio_encoder": {"waveform": 6400},
    "qwen2_audio": {"places": {"audio": 64}},
    "qwen3_asr": {"mels_first": True, "frames_of_sound": 200},
    "qwen3_asr_encoder": {"mels_first": True, "frames_of_sound": 200},
    "seggpt": {"image": (32, 32), "also": ("prompt_pixel_values", "prompt_masks")},
    "smolvlm": {"images_each": 1},
    "speech-encoder-decoder": {"also": ("input_values",)},
    "superglue": {"frames": 2},
    "swin2sr": {"image": (32, 32)},
    "ultravbert": {"images_each": 1},
    "vibevoice": {"waveform": 6400},
    "vibevoice_acoustic_tokenizer": {"waveform": 6400},
    "vibevoice_asr": {"waveform": 6400},
    "videomt": {"also": ("pixel_values_videos",)},
    "videoprism_vision_model": {"also": ("pixel_values_videos",)},
    "vilt": {"also": ("pixel_values",)},
    "voxtral_realtime": {"mels_first": True, "least": 8, "padded": False},
    "voxtral_realtime_encoder": {"mels_first": True},
}
"""By model type, how its inputs are drawn:

also: arguments to draw though the signature does not require them; skip: arguments to leave out.
image: (height, width); frames: images in one sample, in a dimension of their own; images_each, tiles: likewise, where
    a model takes several images a sample, or cuts each into tiles; square: patches are packed as squares, not as rows.
sound: what the argument for sound holds, a "spectrogram" or an "image" of one; waveform, frames_of_sound: its length;
    mels, mels_first: its bins, and whether they come before the frames; mask_dtype, mask_value: of the mask beside it.
places: features of each sample that stand in its text, where the model cannot be asked; least: the least length of a
    text; decoded: the length of the decoder's; padded: whether texts are of unequal length.
shared: arguments that are no tensor of samples.
soften: the start of the names of weights that are made small, where probabilities would else be zeros and ones.
"""


def configuration_facts(model_type: str) -> Mapping[str, Any]:
    """Return the fields that a configuration of this type must have."""
    return CONFIGURATIONS.get(model_type, {})


def facts_of(entry: Entry) -> Mapping[str, Any]:
    """Return the facts of a type's inputs, with those of the one part of it on top."""
    return {**TYPES.get(entry.model_type, {}), **TYPES.get(f"{entry.model_type}+{entry.part}", {})}
