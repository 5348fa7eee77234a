import pytest

from conformance.models.every.classes import config_class
from conformance.models.every.configs import TokenIds, everywhere, nested, tiny
from conformance.models.every.sizes import HEADS, VOCABULARY, WIDTH


def has(model_type):
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return model_type in CONFIG_MAPPING_NAMES


def tiny_of(model_type):
    if not has(model_type):
        pytest.skip(f"the installed transformers has no {model_type}")
    return tiny(config_class(model_type))


@pytest.mark.parametrize("model_type", ["llama", "bert", "t5", "gpt2", "mixtral", "clip", "whisper", "vit", "llava"])
def test_widths_heads_and_words_agree(model_type):
    for part in everywhere(tiny_of(model_type)):
        heads = getattr(part, "num_attention_heads", None)
        if heads is not None and hasattr(part, "hidden_size"):
            assert part.hidden_size == WIDTH
            assert part.hidden_size % heads == 0
        if getattr(part, "vocab_size", None):
            assert part.vocab_size <= VOCABULARY
        for name in ("pad_token_id", "bos_token_id", "eos_token_id", "image_token_id", "image_token_index"):
            token = vars(part).get(name)
            if isinstance(token, int):
                assert token < VOCABULARY


def test_heads_without_groups_stay_so():
    config = tiny_of("llama")
    assert config.num_key_value_heads == config.num_attention_heads == HEADS


def test_groups_stay_groups():
    config = tiny_of("mistral")
    assert 0 < config.num_key_value_heads < config.num_attention_heads


def test_every_kind_of_layer_is_kept():
    config = tiny_of("gemma3_text")
    if not hasattr(config, "layer_types"):
        pytest.skip("this transformers does not name the kinds of layers")
    assert set(config.layer_types) == {"sliding_attention", "full_attention"}
    assert len(config.layer_types) == config.num_hidden_layers


def test_indices_of_layers_point_at_layers():
    config = tiny_of("qwen2_5_vl").vision_config
    assert max(config.fullatt_block_indexes) < config.depth


def test_rotary_sections_fill_the_small_head():
    whole = tiny_of("qwen2_vl")
    config = getattr(whole, "text_config", whole)
    rotary = getattr(config, "rope_parameters", None) or config.rope_scaling
    if not rotary:
        pytest.skip("this transformers' Qwen2-VL has no sections by default")
    assert 2 * sum(rotary["mrope_section"]) == config.hidden_size // config.num_attention_heads


def test_backbones_give_out_as_many_stages_as_before():
    config = tiny_of("dpt")
    inner = next(iter(nested(config).values()), None)
    if inner is None or not getattr(inner, "out_indices", None):
        pytest.skip("this transformers' DPT has no backbone by default")
    assert len(inner.out_indices) == len(config_class("dpt")().backbone_config.out_indices)


def test_one_token_is_one_token_everywhere():
    ids = TokenIds()
    assert ids.small(151655) == ids.small(151655) != ids.small(151656)
    assert ids.small([151655, 3]) == [ids.small(151655), 3]
    assert ids.small(None) is None
    assert ids.small(True) is True
    assert max(ids.small(1000 + number) for number in range(100)) < VOCABULARY


def test_facts_of_a_nested_configuration_hold_inside_of_others():
    config = tiny_of("csm")
    assert config.codec_config.codebook_size & (config.codec_config.codebook_size - 1) == 0
