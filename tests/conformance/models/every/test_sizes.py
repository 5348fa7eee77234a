import pytest

from conformance.models.every.sizes import (
    EXPERTS,
    EXPERTS_PER_TOKEN,
    HEADS,
    KEY_VALUE_HEADS,
    LAYERS,
    VOCABULARY,
    WIDTH,
    picked,
    small,
)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("hidden_size", 4096, WIDTH),
        ("d_model", 512, WIDTH),
        ("out_hidden_size", 3584, WIDTH),
        ("vocab_size", 152064, VOCABULARY),
        ("type_vocab_size", 2, 2),
        ("num_hidden_layers", 32, LAYERS),
        ("encoder_layers", 6, LAYERS),
        ("num_attention_heads", 32, HEADS),
        ("num_attention_heads", 2, 2),
        ("num_attention_heads", 3, HEADS),  # three heads do not divide the one width
        ("num_key_value_heads", 8, KEY_VALUE_HEADS),
        ("num_experts", 128, EXPERTS),
        ("num_experts_per_tok", 8, EXPERTS_PER_TOKEN),
        ("num_channels", 3, 3),
        ("conv_kernel_size", 31, 31),
        ("depths", (2, 2, 18, 2), (2, 2, 2, 2)),
        ("hidden_sizes", [96, 192, 384, 768], [WIDTH] * 4),
        ("num_heads", [3, 6, 12, 24], [HEADS] * 4),
        ("tie_word_embeddings", True, True),
        ("hidden_act", "gelu", "gelu"),
        ("rope_theta", 1e6, 1e6),
    ],
)
def test_small(name, before, after):
    assert small(name, before) == after


def test_small_is_small_already():
    assert small("hidden_size", small("hidden_size", 4096)) == WIDTH
    assert small("hidden_size", 8) == 8


def test_picked_keeps_one_of_each_kind():
    assert picked(["a", "a", "b", "a"]) == ["a", "b"]
    assert picked(["a", "a"]) == ["a", "a"]
    assert picked(["a"] * 5, 3) == ["a"] * 3
