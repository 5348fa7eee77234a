"""What a model generates, as the sweep compares it: the logits of every row and step, or what there is instead."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, List, Mapping

from conformance.compare import Inapplicable
from conformance.models.every.batch import Batch
from conformance.outputs import Tensors, tensors_of
from conformance.shim_switch import declines, is_installed, never_split
from conformance.sweep.judge import SPLIT, Way
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


def prompt_of(batch: Batch, config: Any) -> Batch:
    """Return what generate is given of the arguments of a forward.

    config: the model's. Encoders have their shorter rows padded on the right, as they come; other models on the left,
    as users pad; and XLM none at all, since it cuts off as many tokens at the end as there is padding anywhere.
    """

    def kept(arguments: Dict[str, Any]) -> Dict[str, Any]:
        return {name: value for name, value in arguments.items() if not name.startswith(_MADE_BY_GENERATE)}

    tensors = kept(batch.tensors)
    if not getattr(config, "is_encoder_decoder", False):
        own = {name: tensor for name, tensor in tensors.items() if name not in batch.packed}
        tensors.update(_padded_on_the_left(own, getattr(config, "model_type", "") == "xlm"))
    return replace(batch, tensors=tensors, packed=kept(batch.packed), shared=kept(batch.shared))


def _padded_on_the_left(tensors: Mapping[str, Any], cut: bool) -> Dict[str, Any]:
    """Return the tensors that have an entry for each token, with padding before them; or `cut` to the shortest row."""
    import torch

    ids, mask = tensors.get("input_ids"), tensors.get("attention_mask")
    if ids is None or mask is None or ids.shape != mask.shape:
        return {}
    lengths = [int(length) for length in mask.sum(1)]
    shortest = min(lengths) if cut else ids.shape[1]
    return {
        name: torch.stack([row.roll(len(row) - length, 0) for row, length in zip(tensor, lengths)])[:, -shortest:]
        for name, tensor in tensors.items()
        if tensor.shape[:2] == ids.shape
    }


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
    told = getattr(model.generation_config, "decoder_start_token_id", None)
    return {"decoder_start_token_id": 1} if told is None else {}


def generate_route(adapted: Any, batch: Batch, names: List[str], **more: Any) -> str:
    """Return the route of a mixed generate: in one pass where it is served although nothing may be split."""
    if not is_installed():
        return "unknown"
    with never_split():
        try:
            generated(adapted, batch, adapter_names=names, **more)
        except declines():
            return SPLIT  # or refused, which the call itself will tell
    return "one pass"


GENERATE = Way(generated, generate_route, prompt_of)
