"""What a model generates, as the sweep compares it: the logits of every row and step, or what there is instead."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, List

from conformance.compare import Inapplicable
from conformance.models.every.batch import Batch
from conformance.outputs import Tensors, tensors_of
from conformance.shim_switch import declines, is_installed, never_split
from conformance.sweep.judge import Way
from conformance.sweep.reference import SEED, masked

TOKENS = 4
_GREEDY: Dict[str, Any] = {
    "max_new_tokens": TOKENS,
    "min_new_tokens": TOKENS,
    "do_sample": False,
    "return_dict_in_generate": True,
}
_MADE_BY_GENERATE = ("labels", "decoder_", "position_ids", "past_key_values")
"""How the names of arguments begin that generate makes for itself, at every step."""


def prompt_of(batch: Batch) -> Batch:
    """Return what generate is given of the arguments of a forward."""

    def kept(arguments: Dict[str, Any]) -> Dict[str, Any]:
        return {name: value for name, value in arguments.items() if not name.startswith(_MADE_BY_GENERATE)}

    return replace(batch, tensors=kept(batch.tensors), packed=kept(batch.packed), shared=kept(batch.shared))


def generated(model: Any, batch: Batch, **more: Any) -> Tensors:
    """Return the logits of each step by name; of a model that gives none, its floating-point outputs.

    Greedy, and none ends early, so that every row has as many steps.

    Raises:
        Inapplicable: it gives whole numbers only, which adapters may well have in common.
    """
    import torch
    from transformers import GenerationConfig

    # Breakpoint: huggingface/transformers#28667, transformers 4.38 gives the logits; before, scores, processed ones.
    told = "output_logits" if hasattr(GenerationConfig(), "output_logits") else "output_scores"
    torch.manual_seed(SEED)
    with torch.no_grad():
        output = model.generate(**batch.arguments, **_GREEDY, **_first_token(model), **{told: True}, **more)
    found = {path: masked(tensor) for path, tensor in tensors_of(output).items()}
    by_step = {path: tensor for path, tensor in found.items() if path.startswith(("logits", "scores"))}
    numbers = by_step or {path: tensor for path, tensor in found.items() if tensor.is_floating_point()}
    if not numbers:
        raise Inapplicable(f"generate gives whole numbers only, which adapters may have in common: {', '.join(found)}")
    return numbers


def _first_token(model: Any) -> Dict[str, int]:
    """Return the token that a decoder begins with, for a model whose configuration made at random tells none."""
    told = [getattr(model.generation_config, name, None) for name in ("decoder_start_token_id", "bos_token_id")]
    encodes = getattr(model.config, "is_encoder_decoder", False)
    return {"decoder_start_token_id": 1} if encodes and told == [None, None] else {}


def generate_route(adapted: Any, batch: Batch, names: List[str], **more: Any) -> str:
    """Return the route of a mixed generate: in one pass where it is served although nothing may be split."""
    if not is_installed():
        return "unknown"
    with never_split():
        try:
            generated(adapted, batch, adapter_names=names, **more)
        except declines():
            return "split"  # or refused, which the call itself will tell
    return "one pass"


GENERATE = Way(generated, generate_route)
