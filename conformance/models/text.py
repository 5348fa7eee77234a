"""Text models: causal, encoder, classifying, encoder-decoder, time-major and with experts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, Tuple

from conformance.models.model import Model
from conformance.models.text_inputs import (
    PAD,
    SPECIAL,
    VOCABULARY,
    decoder_ids,
    left_padded,
    right_padded,
    unpadded,
)
from conformance.models.upstream import attends_with_sdpa, random_model, source_says

if TYPE_CHECKING:
    import torch

    from conformance.models.model import Draw, Inputs

LENGTHS = (3, 4, 7)
"""Two of them are common batch sizes: where tokens equal samples, guessing which is which is caught."""

TRANSFORMER: Dict[str, Any] = {
    **SPECIAL,
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
BERT_LAYERS = ("query", "key", "value", "attention.output.dense", "intermediate.dense", "word_embeddings")

# Breakpoint: huggingface/transformers#41580 (a Linear per expert became one parameter for all experts)
EXPERTS = ("w1", "w2", "w3") if source_says("models/mixtral/modeling_mixtral.py", "self.w1 = ") else ()


def _prompts(architecture: str) -> Draw:
    """Return how to draw prompts for a causal `architecture` of llama's family."""

    def draw(samples: int, length: int, generator: torch.Generator) -> Inputs:
        # Their eager attention takes its softmax in float32, where float64's least number is minus infinity:
        # padding before the first token sees nothing, becomes nan, and 0 * nan spreads it to every token.
        return (left_padded if attends_with_sdpa(architecture) else unpadded)(samples, length, generator)

    return draw


def t5_inputs(samples: int, length: int, generator: torch.Generator) -> Inputs:
    """Return padded ids for the encoder and one token more for the decoder."""
    inputs = right_padded(samples, length, generator)
    return {**inputs, "decoder_input_ids": decoder_ids(samples, length, generator, PAD)}


def _encoder(name: str, family: str, task: str, saved: Tuple[str, ...], **fields: Any) -> Model:
    """Return a model of the BERT `family`; a `task` makes it a classifier."""
    return Model(
        name=name,
        architecture=family + (task or "Model"),
        build=random_model(family + (task or "Model"), family + "Config", {**TRANSFORMER, **fields}),
        inputs=right_padded,
        targets=BERT_LAYERS,
        saved=saved,
        tags=frozenset({"text", "classifies"} if task else {"text"}),
        lengths=LENGTHS,
    )


TEXT: Tuple[Model, ...] = (
    Model(
        name="llama",
        architecture="LlamaForCausalLM",
        build=random_model("LlamaForCausalLM", "LlamaConfig", {**TRANSFORMER, "num_key_value_heads": 1}),
        inputs=_prompts("LlamaForCausalLM"),
        targets=(*ATTENTION, "gate_proj", "up_proj", "down_proj"),
        saved=("lm_head", "model.norm"),
        tags=frozenset({"text", "causal-lm", "generates"}),
        lengths=LENGTHS,
    ),
    Model(
        name="gpt2",
        architecture="GPT2LMHeadModel",
        build=random_model(
            "GPT2LMHeadModel",
            "GPT2Config",
            {**SPECIAL, "vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
        ),
        inputs=left_padded,
        targets=("c_attn", "c_proj", "c_fc"),
        saved=("ln_f",),
        tags=frozenset({"text", "causal-lm", "generates"}),
        lengths=LENGTHS,
    ),
    _encoder("bert", "Bert", "", ("pooler", "embeddings.LayerNorm")),
    _encoder("bert-sequence-classification", "Bert", "ForSequenceClassification", ("classifier", "pooler")),
    _encoder("roberta-sequence-classification", "Roberta", "ForSequenceClassification", ("classifier",)),
    _encoder(
        "electra-sequence-classification",
        "Electra",
        "ForSequenceClassification",
        ("classifier",),
        embedding_size=16,
    ),
    Model(
        name="t5",
        architecture="T5ForConditionalGeneration",
        build=random_model(
            "T5ForConditionalGeneration",
            "T5Config",
            {
                **SPECIAL,
                "decoder_start_token_id": PAD,
                "vocab_size": VOCABULARY,
                "d_model": 16,
                "d_kv": 8,
                "d_ff": 32,
                "num_layers": 2,
                "num_heads": 2,
            },
        ),
        inputs=t5_inputs,
        targets=("q", "k", "v", "o", "wi", "wo"),
        saved=("final_layer_norm",),
        tags=frozenset({"text", "encoder-decoder", "generates"}),
        lengths=LENGTHS,
    ),
    Model(
        name="xlnet",
        architecture="XLNetModel",
        build=random_model(
            "XLNetModel",
            "XLNetConfig",
            {
                **SPECIAL,
                "vocab_size": VOCABULARY,
                "d_model": 16,
                "d_inner": 32,
                "n_layer": 2,
                "n_head": 2,
                "use_mems_eval": False,  # the memories are outputs with their samples in dimension 1
            },
        ),
        inputs=left_padded,
        targets=("layer_1", "layer_2", "word_embedding"),
        saved=("ff.layer_norm", "rel_attn.layer_norm"),
        tags=frozenset({"text", "time-major"}),
        lengths=LENGTHS,
    ),
    Model(
        name="mixtral",
        architecture="MixtralForCausalLM",
        build=random_model(
            "MixtralForCausalLM",
            "MixtralConfig",
            {
                **TRANSFORMER,
                "num_key_value_heads": 1,
                "num_local_experts": 4,
                "experts_implementation": "eager",  # the default since transformers 5 lacks float64
            },
        ),
        inputs=_prompts("MixtralForCausalLM"),
        targets=(*ATTENTION, *EXPERTS),
        saved=("lm_head", "model.norm"),
        tags=frozenset({"text", "causal-lm", "generates", "experts"}),
        lengths=LENGTHS,
    ),
)
