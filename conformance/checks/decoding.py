"""Chapter Generation: tokens guided, guessed ahead, streamed, from embeddings and out of any cache (G6, G7, G8)."""

from __future__ import annotations

import contextlib
import copy
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Sequence

from conformance.case import Case, raised_by
from conformance.checks.check import check
from conformance.checks.generation import expect_own_tokens, expect_tokens, generates, tokens, without_tail
from conformance.compare import Declined, Evidence, Inapplicable, Mismatch
from conformance.footprint import expect_unchanged, footprint
from conformance.scenarios import BASE, Draws
from conformance.subject import base_model

if TYPE_CHECKING:
    from conformance.models import Model

_ROWS = Draws(adapters=(2, 3), rows=(3, 4), saved="none")
_AHEAD = {"prompt_lookup_num_tokens": 2}
_QUANTISED: Sequence[Dict[str, Any]] = (
    {"backend": "quanto", "nbits": 2, "q_group_size": 8, "residual_length": 1},
    {"backend": "hqq", "nbits": 2, "q_group_size": 8, "residual_length": 1},
    {"backend": "fp8"},
)


def _is_causal(model: Model) -> bool:
    return generates(model) and "causal-lm" in model.tags


@check("G6", draws=_ROWS, applies=_is_causal)
def guided_tokens_are_the_rows_own(case: Case) -> Evidence:
    """Are tokens guided away from a prompt of each row's own, or from none, those of that row's own run?"""
    import torch

    generator = torch.Generator().manual_seed(case.scenario.seed + 1)
    words = case.inputs["input_ids"]
    order = torch.randperm(words.numel(), generator=generator).to(words.device)
    negative = words.flatten()[order].view_as(words)
    guided = {"guidance_scale": 2.5}
    prompts = {"negative_prompt_ids": negative, "negative_prompt_attention_mask": torch.ones_like(negative)}
    return expect_own_tokens(case, guided) + expect_own_tokens(case, {**guided, **prompts})


@check("G7", draws=_ROWS, applies=generates)
def tokens_looked_up_in_the_prompt_are_the_rows_own(case: Case) -> Evidence:
    """Are tokens guessed from the prompt those of the row run by itself, or is the call refused without a trace?"""
    return _expect_tokens_of_rows(case, _AHEAD)


@check("G7", draws=_ROWS, applies=generates)
def tokens_of_an_assistant_are_the_rows_own(case: Case) -> Evidence:
    """Are tokens guessed by an assistant those of the row run by itself, or is the call refused without a trace?"""
    return _expect_tokens_of_rows(case, {"assistant_model": base_model(case.model, case.device)})


@check("G8", draws=_ROWS, applies=generates)
def tokens_out_of_a_quantised_cache_are_the_rows_own(case: Case) -> Evidence:
    """Are tokens out of each quantised cache that is installed those of the row run by itself, or refused?"""
    evidence, absent = Evidence(), []
    for config in _QUANTISED:
        settings = {"cache_implementation": "quantized", "cache_config": config}
        try:
            evidence += _expect_tokens_of_rows(case, settings)
        except Inapplicable as error:
            absent.append(str(error))
    if len(absent) == len(_QUANTISED):
        raise Inapplicable(absent[-1])
    return evidence


@check("G8", draws=_ROWS, applies=generates)
def tokens_out_of_a_cache_of_the_callers_are_the_rows_own(case: Case) -> Evidence:
    """Are tokens those of the row's own run where a dynamic cache goes from one generate into the next?"""
    if "encoder-decoder" in case.model.tags:
        raise Inapplicable("an encoder-decoder's generate goes on from tokens of the decoder, not from its prompt")
    cache = _dynamic_cache()
    own = {name: _two_turns(case, case.oracle.model_of(name), cache, {}) for name in {*case.rows, BASE}}
    mixed = _two_turns(case, case.peft_model, cache, {"adapter_names": list(case.rows)})
    return expect_tokens(mixed, own, case.rows, {"past_key_values": cache.__name__})


@check("G8", draws=_ROWS, applies=_is_causal)
def left_padded_rows_generate_their_own_tokens(case: Case) -> Evidence:
    """Are tokens those of the row's own run where each row is padded on the left by another length?"""
    import torch

    mask = torch.ones_like(case.inputs["attention_mask"])
    for row in range(len(mask)):
        mask[row, : row % mask.shape[1]] = 0
    case.inputs.update(attention_mask=mask, input_ids=case.inputs["input_ids"] * mask)
    with torch.no_grad():
        if not bool(torch.isfinite(case.oracle.model_of(BASE)(**case.inputs).logits[:, -1]).all()):
            # Eager attention takes its softmax in float32, where float64's least number is minus infinity.
            raise Inapplicable("the model makes nan of padding before the first token in float64")
    return expect_own_tokens(case, {})


@check("G8", draws=_ROWS, applies=generates)
def tokens_from_embeddings_are_the_rows_own(case: Case) -> Evidence:
    """Are tokens those of the row's own run where `inputs_embeds` stand in place of the ids?"""
    ids = case.inputs.get("input_ids")
    if ids is None:
        raise Inapplicable("the model's generate takes no ids that embeddings could stand for")
    embeddings = base_model(case.model, case.device).get_input_embeddings()(ids).detach()
    inputs = {"inputs_embeds": embeddings, "attention_mask": case.inputs["attention_mask"]}
    try:
        own = {name: tokens(case, case.oracle.model_of(name), {}, None, inputs) for name in {*case.rows, BASE}}
    except (TypeError, ValueError) as error:
        raise Inapplicable(f"the model's generate takes no inputs_embeds: {error}") from error
    mixed = tokens(case, case.peft_model, {}, case.rows, inputs)
    return expect_tokens(mixed, own, case.rows, {"inputs_embeds": tuple(embeddings.shape)})


@check("G8", draws=_ROWS, applies=generates)
def a_streamer_gets_the_rows_own_tokens(case: Case) -> Evidence:
    """Does a streamer get the tokens of the one row that is generated; those of all, or is that refused by name?"""
    row = {name: value[:1] for name, value in case.inputs.items()}
    evidence = Evidence()
    for names, inputs in (([case.rows[0]], row), (list(case.rows), case.inputs)):
        own = {name: _streamed(case, case.oracle.model_of(name), None, inputs) for name in {*case.rows, BASE}}

        def mixed(names: Sequence[str] = names, inputs: Dict[str, Any] = inputs) -> List[List[int]]:
            return _streamed(case, case.peft_model, names, inputs)

        refusal = ("streamer",) if len(names) > 1 else ()
        with contextlib.suppress(Declined):  # of several rows; the one row has been shown by then
            evidence += _expect_or_refused(case, mixed, own, names, {"streamer": True}, refusal)
    return evidence


def _expect_tokens_of_rows(case: Case, settings: Dict[str, Any]) -> Evidence:
    """Hold a mixed generate against each row run by itself: a whole batch under one adapter may be no reference.

    Raises:
        Inapplicable: rows cannot be generated so even by themselves.
        Declined: the call is refused, and leaves no trace.
        Mismatch: a row's tokens are not its own, or the refusal names no setting, or leaves a trace.
    """
    rows = [{name: value[row : row + 1] for name, value in case.inputs.items()} for row in range(len(case.rows))]
    try:
        own = {
            name: [tokens(case, case.oracle.model_of(name), _own_copy(settings), None, row)[0] for row in rows]
            for name in {*case.rows, BASE}
        }
    except (ImportError, LookupError, TypeError, ValueError, AttributeError, NotImplementedError) as error:
        raise Inapplicable(f"no row can be generated by {_said(settings)} here: {error}") from error

    def mixed() -> List[List[int]]:
        return tokens(case, case.peft_model, _own_copy(settings), case.rows)

    return _expect_or_refused(case, mixed, own, case.rows, settings, ("batch_size", "run one "))


def _own_copy(settings: Dict[str, Any]) -> Dict[str, Any]:
    """Return the settings as if never used: some transformers take the items out of a cache's.

    An assistant keeps how many tokens to guess, by which the tokens of transformers 4.40 differ.
    """
    return copy.deepcopy(settings)


def _said(settings: Dict[str, Any]) -> Dict[str, Any]:
    """Return the settings as a message says them: a model by its class."""
    return {name: type(value).__name__ if callable(value) else value for name, value in settings.items()}


def _expect_or_refused(
    case: Case,
    mixed: Callable[[], List[List[int]]],
    own: Dict[str, List[List[int]]],
    names: Sequence[str],
    settings: Dict[str, Any],
    refusal: Sequence[str],
) -> Evidence:
    """Compare the tokens of `mixed` with each row's own; or see that it is refused, with one of the words `refusal`.

    Raises:
        Declined: it is refused, and leaves no trace.
        Mismatch: neither, or it leaves a trace.
    """
    before = footprint(case.peft_model)
    found: List[List[int]] = []
    error = raised_by(lambda: found.extend(mixed()))
    if error is None:
        return expect_tokens(found, own, names, _said(settings))
    if not isinstance(error, ValueError) or not any(word in str(error).lower() for word in refusal):
        otherwise = f", or be a ValueError that says one of {list(refusal)}" if refusal else ""
        raise Mismatch(f"raised {type(error).__name__}: {error}, but should answer{otherwise}") from error
    expect_unchanged(before, footprint(case.peft_model), f"a generate with {sorted(settings)}")
    raise Declined(str(error)) from error


def _streamed(case: Case, model: Any, names: Any, inputs: Dict[str, Any]) -> List[List[int]]:
    """Return what a streamer is given while the batch is generated, row by row."""
    streamer = _Streamer()
    tokens(case, model, {"streamer": streamer}, names, inputs)
    count = next(len(value) for value in inputs.values())
    return [without_tail(row, model) for row in streamer.rows(count)]


class _Streamer:
    """Keeps the tokens that it is given: the prompt, and one token of each row at a time."""

    def __init__(self) -> None:
        self._given: List[Any] = []

    def put(self, value: Any) -> None:
        """Take the next tokens."""
        self._given.append(value.cpu())

    def end(self) -> None:
        """Take note of nothing: whether all came is seen from the tokens."""

    def rows(self, count: int) -> List[List[int]]:
        """Return the tokens of each of `count` rows."""
        import torch

        return torch.cat([value.reshape(count, -1) for value in self._given], dim=1).tolist()


def _dynamic_cache() -> Any:
    """Return the class of transformers' dynamic cache.

    Raises:
        Inapplicable: generate takes none here.
    """
    import transformers

    cache = getattr(transformers, "DynamicCache", None)
    if cache is None:
        raise Inapplicable("this transformers has no DynamicCache")
    return cache


def _two_turns(case: Case, model: Any, cache: Any, names: Dict[str, Any]) -> List[List[int]]:
    """Generate, append each row's own prompt again, and generate on with the cache of before; return all tokens."""
    import torch

    kept, ids, mask = cache(), case.inputs["input_ids"], case.inputs["attention_mask"]
    settings = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "past_key_values": kept, **names}
    with torch.no_grad():
        try:
            first = model.generate(input_ids=ids, attention_mask=mask, **settings)
        except (TypeError, ValueError, AttributeError) as error:
            if names:
                raise
            raise Inapplicable(f"the model's generate takes no cache: {error}") from error
        longer = torch.cat([first, ids[:, -2:]], dim=1)
        ones = torch.ones_like(longer[:, mask.shape[1] :])
        output = model.generate(input_ids=longer, attention_mask=torch.cat([mask, ones], dim=1), **settings)
    return output.tolist()  # type: ignore[no-any-return]
