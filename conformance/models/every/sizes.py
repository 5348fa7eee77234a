"""How large a configuration's field becomes, by the field's name: rules for whole families of names, in one table.

All widths become one width, and all counts of heads one count. So whatever the fields of a configuration, or of the
configurations inside it, must agree on, they agree on.
"""

from __future__ import annotations

import re
from typing import Any, List, Optional, Sequence, Tuple

WIDTH, HEADS, KEY_VALUE_HEADS, HEAD_WIDTH, INNER = 64, 4, 2, 16, 96
LAYERS, EXPERTS, EXPERTS_PER_TOKEN = 2, 4, 2
VOCABULARY, POSITIONS, IMAGE, PATCH, WINDOW, MELS = 160, 128, 32, 8, 2, 16

_RULES: Tuple[Tuple[str, int], ...] = (
    # names that other rules would take for something else
    (r"(n|num)_mel(s|_bins)?|num_mel_bins|feat_dim|mel_dim|model_in_dim|input_feat_per_channel", MELS),
    (r"num_query_tokens", 8),
    (r"mm_tokens_per_image|image_seq_length|image_seq_len", 16),
    (r"image_grid_pinpoints|num_encoder_blocks|encode_proj_layers|num_labels|.*xpath.*|stem_channels?", 0),
    (r"resnet_head|resnet_config|stage_config|block_config", 0),
    (r"num_pos_feats", WIDTH // 2),
    (r".*blocks_per_stage", LAYERS),
    (r"embed_dim_per_stage|hidden_size_global|backbone_channel_list|.*hidden_dimension", WIDTH),
    (r"qk_head_dim", 2 * HEAD_WIDTH),
    (r"rotary_dim", HEAD_WIDTH),
    (r"upsample_groups", WIDTH),
    (r"moe_k|moe_topk", EXPERTS_PER_TOKEN),
    (r"moe_num_experts", EXPERTS),
    (r".*type_vocab_size.*|.*(kernel|stride|padding|dilation|_rate|ratio|factor|bits).*", 0),
    (r".*(_groups|reduction|_window_infer|_levels|_points|_position_buckets|_axis|expand|_index|_ids?)", 0),
    (r".*(_loss|_cost|_coefficient|_token|_tokens|temperature|_theta|_id|_every).*|.*_value", 0),
    (r"(num|n)_(channels|classes|labels|frames|codebooks|quantizers|feature_levels|stages|langs|patterns)", 0),
    (r"in_chans|in_channels|input_channels|audio_channels|out_chans", 0),
    # mixtures of experts
    (r"(moe_)?(num|n)_experts_per_tok(en)?|moe_top_?k|top_?k", EXPERTS_PER_TOKEN),
    (r"experts_top_k|num_selected_experts", EXPERTS_PER_TOKEN),
    (r"topk_group", 1),
    (r"n_group|num_expert_group|num_shared_experts|n_shared_experts|moe_num_shared_experts", 2),
    (r"(moe_)?(num|n)_(routed_|local_|sparse_)?experts|num_expert", EXPERTS),
    # heads
    (r".*(num|n)_(key_value|kv)_(attention_)?heads", KEY_VALUE_HEADS),
    (r"num_key_value_groups|index_n_heads|num_global_key_value_heads", KEY_VALUE_HEADS),
    (r".*head_(dim|width|size)|dim_head|.*_head_dim|d_head|d_kv|kv_channels|.*headdim|.*d_head", HEAD_WIDTH),
    (r".*heads?|.*_heads_per_.*", HEADS),
    # layers
    (r"(.*_)?(num|n)_(.*_)?(layers?|blocks?)|(.*_)?layers?|depth|(.*_)?depth|n_layer|num_hidden_groups", LAYERS),
    (r"num_self_attends_per_block|.*_block_number|.*num_flows", LAYERS),
    (r"first_k_dense_replace|num_dense_layers", 1),
    # vocabularies and lengths
    (r".*codebook_size|.*num_codevectors.*", 128),
    (r".*vocab(_size)?(_.*)?|.*num_embeddings|num_embeds", VOCABULARY),
    (r"(.*_)?(max_.*positions?(_embeddings)?|n_positions|n_ctx|max_length|context_length)", POSITIONS),
    (r"(.*_)?(max_seq_len|model_max_length)", POSITIONS),
    (r".*max_position_embeddings|max_.*_length|max_pos_emb|max_text_.*", POSITIONS),
    (r"(.*_)?(sliding_window|local_attention|attention_window_size|window_len)(_size)?|attention_chunk_size", 8),
    (r".*chunk_size", 8),
    (r".*(image|img|spec|crop)_size|train_size", IMAGE),
    (r"patch_size", PATCH),
    (r"window_size|window_size_per_stage", WINDOW),
    (r"mm_hidden_size", WIDTH),
    (r"num_queries|.*num_latents.*|.*n_latents|latent_query_num|two_stage_num_proposals", 8),
    (r"num_denoising", 0),
    (r".*lora_rank|.*_rank|.*d_state|state_size", 8),
    # widths
    (r".*(intermediate|ffn|ff|feed_?forward|inner|mlp)_?(size|dim|hidden_size|hidden_dim)?", INNER),
    (r"n_inner|d_ff|dff|d_inner|ffn_dim|mlp_dim|dim_ff", INNER),
    (r".*(hidden|embed|embeddings?|model|proj|projection|width)_?(size|dims?|width)?", WIDTH),
    (r".*(channels?|features?)_?(size|dims?|width)?", WIDTH),
    (r".*_(size|dim|width|filters)|n_embd|d_model|dim|width|d_latents", WIDTH),
)
"""(pattern of the whole name, the size of its field); 0 leaves the field as it is. The first match holds."""


def small(name: str, value: Any) -> Any:
    """Return what the field `name` should be instead of `value`: a smaller number, a list of them, or the same."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        size = _size(name)
        if size == WINDOW and value >= 64:  # in pixels
            return IMAGE
        if size == HEADS and name.endswith("heads") and value > 0 and WIDTH % value:
            return HEADS
        return value if size is None or value <= size else size
    if name == "image_grid_pinpoints" and value:
        return [[IMAGE, 2 * IMAGE], [2 * IMAGE, IMAGE]]
    if isinstance(value, (list, tuple)) and value:
        singular = name[:-1] if name.endswith("s") and not name.endswith("heads") else name
        return type(value)(small(singular, item) for item in value)
    return value


def picked(values: Sequence[Any], least: int = LAYERS) -> List[Any]:
    """Return a short list that keeps each distinct kind of `values`, in the order of first mention."""
    kinds: List[Any] = []
    for value in values:
        if value not in kinds:
            kinds.append(value)
    return kinds + [kinds[-1]] * (least - len(kinds))


def _size(name: str) -> Optional[int]:
    """Return the size for fields called `name`; None for those that keep theirs."""
    for pattern, size in _RULES:
        if re.fullmatch(pattern, name):
            return size or None
    return None
