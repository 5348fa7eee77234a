"""Tiny random models with two adapters, `fr` and `de`, for the examples in the documentation."""

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

WORDS = "[PAD] [UNK] [BOS] [EOS] a bird cat dog eats fish green house in red runs sees the tree".split()
SMALL = {
    "vocab_size": len(WORDS), "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "initializer_range": 0.5, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3,
}  # fmt: skip


def adapted(model, targets, **options):
    """Return `model` under the LoRA adapters `fr` and `de`, whose weights are random."""
    lora = LoraConfig(r=2, target_modules=list(targets), init_lora_weights=False, **options)
    model = get_peft_model(model, lora, adapter_name="fr")
    model.add_adapter("de", lora)
    return model.eval()


def llama():
    """Return a causal model and the inputs of three samples."""
    torch.manual_seed(0)
    return adapted(LlamaForCausalLM(LlamaConfig(**SMALL)), ["q_proj", "v_proj"]), sentences()


def classifier():
    """Return a sequence classifier and the inputs of three samples."""
    torch.manual_seed(0)
    return adapted(BertForSequenceClassification(BertConfig(**SMALL)), ["query", "value"]), sentences()


def sentences():
    """Return the tokens of three sentences of one length."""
    ids = torch.arange(15).view(3, 5) * 5 % 14 + 4
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def tokenizer():
    """Return a tokenizer of a few words."""
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", bos_token="[BOS]", eos_token="[EOS]",
        padding_side="left",
    )  # fmt: skip


def far_apart(adapters, targets, layers=1):
    """Return a causal model of 32 words under `adapters`, whose weights are so large that each says something else."""
    torch.manual_seed(0)
    base = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=layers, num_attention_heads=2,
            num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )
    )  # fmt: skip
    lora = LoraConfig(r=2, target_modules=list(targets), task_type="CAUSAL_LM", init_lora_weights=False)
    first, *others = adapters
    model = get_peft_model(base, lora, adapter_name=first)
    for name in others:
        model.add_adapter(name, lora)
    for path, parameter in model.named_parameters():
        if "lora_" in path:
            parameter.data = torch.randn_like(parameter)
    return model.eval()
