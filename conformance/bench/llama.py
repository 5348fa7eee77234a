"""The model that the benches run: a random Llama, every linear layer adapted."""

from __future__ import annotations

from typing import Any, Dict, List

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def build(layers: int, width: int, adapters: int, rank: int = 8) -> Any:
    """Return a PEFT model of `layers` layers of `width`, with `adapters` adapters a0, a1, … on all linear layers."""
    import peft
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        intermediate_size=width * 43 // 16,
        num_attention_heads=8,
        num_key_value_heads=8,
        vocab_size=1000,
    )
    lora = peft.LoraConfig(r=rank, target_modules=TARGETS, init_lora_weights=False)
    model = peft.get_peft_model(LlamaForCausalLM(config).eval(), lora, adapter_name="a0")
    for index in range(1, adapters):
        model.add_adapter(f"a{index}", lora)
    return model.eval()


def inputs(samples: int, length: int) -> Dict[str, Any]:
    """Return a batch of random tokens, the same for the same numbers."""
    import torch

    ids = torch.randint(0, 1000, (samples, length), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def names(samples: int, distinct: int) -> List[str]:
    """Return one of `distinct` names for each sample, in turns."""
    return [f"a{index % distinct}" for index in range(samples)]
