"""Which methods there are: those that the installed PEFT registers, and LoRA's variants; and what each needs to fit."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, Dict, List, Tuple

from conformance.methods.quantised import QUANTISERS

VIRTUAL_TOKENS = 3

# What a configuration needs beyond its targets to fit a layer of width 128, two layers and 64 tokens.
FACTS: Dict[str, Dict[str, Any]] = {
    "ADAPTION_PROMPT": {"adapter_len": 4, "adapter_layers": 1, "target_modules": "self_attn"},
    "ADALORA": {"inference_mode": True, "total_step": 10},
    "BOFT": {"boft_block_size": 4},
    "C3A": {"block_size": 16},
    "CPT": {"cpt_token_ids": [5, 6, 7], "cpt_mask": [1, 1, 1], "cpt_tokens_type_mask": [1, 2, 4]},
    "FOURIERFT": {"n_frequency": 10},
    "IA3": {"feedforward_modules": []},
    "LN_TUNING": {"target_modules": ["input_layernorm"]},
    "MISS": {"r": 8},
    "MULTITASK_PROMPT_TUNING": {"num_tasks": 2, "num_ranks": 1},
    "OFT": {"oft_block_size": 4, "r": 0},
    "POLY": {"n_tasks": 2},
    "PSOFT": {"r": 8},
    "P_TUNING": {"encoder_hidden_size": 16},
    "SHIRA": {"r": 4},
    "TRAINABLE_TOKENS": {"target_modules": ["embed_tokens"], "token_indices": list(range(64))},
    "VBLORA": {"num_vectors": 8, "vector_length": 4, "topk": 2},
    "WAVEFT": {"n_frequency": 64},
}

VARIANTS: Dict[str, Dict[str, Any]] = {
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "bias": {"lora_bias": True},
    "ranks": {"rank_pattern": {"v_proj": 3}, "alpha_pattern": {"v_proj": 5}},
    "alora": {"alora_invocation_tokens": [60]},
    "embeddings": {"target_modules": ["q_proj", "embed_tokens"]},
    "tokens": {"trainable_token_indices": list(range(64))},
    "tied_tokens": {"trainable_token_indices": list(range(64))},
    "kasa": {"kasa_config": {"beta": 1e-4}},
    "layers": {"layers_to_transform": [1]},
    "replication": {"layer_replication": [[0, 2], [1, 2]]},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "tied_head": {"target_modules": ["embed_tokens", "lm_head"]},
    "dora_embeddings": {"use_dora": True, "target_modules": ["q_proj", "embed_tokens"]},
    "saved_embeddings": {"modules_to_save": ["embed_tokens"]},
    "tied_saved": {"modules_to_save": ["embed_tokens"]},
    "saved": {"modules_to_save": ["lm_head"]},
    "bdlora": {"use_bdlora": {"target_modules_bd_a": ["q_proj"], "target_modules_bd_b": ["v_proj"], "nblocks": 2}},
}
"""LoRA's variants, by the fields of its configuration."""

MODELS: Dict[str, Dict[str, Any]] = {
    name: {"tie_word_embeddings": True} for name in ("tied_tokens", "tied_head", "tied_saved")
}
"""What the configuration of the model must have for a variant."""


@dataclass(frozen=True)
class Method:
    """A way of PEFT to adapt a model: `method:TYPE`, `method:LORA+variant`, or `method:LORA+on-quantiser`."""

    peft_type: str
    variant: str = ""
    quantiser: str = ""
    """What the base is quantised by, of `QUANTISERS`."""

    @property
    def name(self) -> str:
        """The id in reports and on the command line."""
        of = self.variant or (f"on-{self.quantiser}" if self.quantiser else "")
        return f"method:{self.peft_type}" + (f"+{of}" if of else "")

    @property
    def architecture(self) -> str:
        """The name of its configuration's class."""
        return str(_registered()[self.peft_type].__name__)

    @property
    def clauses(self) -> Tuple[str, ...]:
        """The clauses of the contract that it is judged by."""
        return ("L3",) if self.quantiser else ("L2",) if self.variant else ("L4",)

    def configuration(self) -> Any:
        """Return the configuration of one adapter.

        Raises:
            KeyError, TypeError: there is no such variant, or the installed PEFT knows none.
        """
        cls = _registered()[self.peft_type]
        known = set(inspect.signature(cls).parameters)
        fields: Dict[str, Any] = {"task_type": "CAUSAL_LM"}
        if "num_virtual_tokens" in known:
            fields["num_virtual_tokens"] = VIRTUAL_TOKENS
        elif "target_modules" in known:
            fields["target_modules"] = ["q_proj", "v_proj"]
        facts = {key: value for key, value in FACTS.get(self.peft_type, {}).items() if key in known}
        if self.peft_type == "CPT":
            del fields["num_virtual_tokens"]  # as many as it has tokens
        return cls(**{**fields, **facts, **(VARIANTS[self.variant] if self.variant else {})})


def methods() -> List[Method]:
    """Return every method of the installed PEFT, those variants of LoRA that it has, and LoRA on each quantiser."""
    lora = set(inspect.signature(_registered()["LORA"]).parameters)
    variants = [Method("LORA", variant) for variant, fields in VARIANTS.items() if set(fields) <= lora]
    quantised = [Method("LORA", quantiser=name) for name in QUANTISERS]
    return sorted([*map(Method, _registered()), *variants, *quantised], key=lambda method: method.name)


def _registered() -> Dict[str, Any]:
    """Return the configuration classes by type."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    return {str(getattr(key, "value", key)): config for key, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
