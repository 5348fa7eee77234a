"""Chapter Layers: a pipeline of transformers takes one adapter for each of its texts (L5)."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Dict, List

from conformance.case import Case
from conformance.checks.check import check
from conformance.checks.generation import without_tail
from conformance.checks.own_adapters import own_model
from conformance.compare import Evidence, Inapplicable, Mismatch, Vacuous
from conformance.models.text_inputs import PAD, VOCABULARY
from conformance.scenarios import BASE, Draws

if TYPE_CHECKING:
    from conformance.models import Model

_SAME = 1e-6
"""How near two probabilities are that come from the same logits, which pipelines make in float32 at times."""


def _takes_texts(model: Model) -> bool:
    return bool(model.architecture) and "text" in model.tags and bool(model.tags & {"classifies", "causal-lm"})


@check("L5", "F5", draws=Draws(adapters=(2, 3), rows=(3, 4), saved="none"), applies=_takes_texts)
def a_pipeline_gives_each_text_its_own_adapter(case: Case) -> Evidence:
    """Does each text of a pipeline get its own adapter, in batches smaller than the list, on both kinds of models?"""
    if case.rows[2:] == case.rows[: len(case.rows) - 2]:
        raise Vacuous("the second batch has the names of the first, so whose they are was not shown")
    texts = _texts(case)
    own = {name: _answers(case, case.oracle.model_of(name), texts, {}) for name in {*case.rows, BASE}}
    tell = False
    for model in (case.peft_model, own_model(case)):
        mixed = _answers(case, model, texts, {"adapter_names": list(case.rows)})
        for row, name in enumerate(case.rows):
            tell = tell or any(_gap(own[other][row], own[name][row]) > 1000 * _SAME for other in own)
            if _gap(mixed[row], own[name][row]) > _SAME:
                raise Mismatch(
                    f"text {row} under {name!r} of {list(case.rows)} gives {mixed[row]}, but should {own[name][row]}, "
                    f"on a {type(model).__name__}"
                )
    if not tell:
        raise Vacuous("every adapter gives the same answers, so nothing was shown")
    return Evidence()


def _answers(case: Case, model: Any, texts: List[str], names: Dict[str, List[str]]) -> List[List[float]]:
    """Return what a pipeline of batches of two gives for each text: scores by label, or tokens."""
    import transformers

    classifies = "classifies" in case.model.tags
    task = "text-classification" if classifies else "text-generation"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = transformers.pipeline(task, model=model, tokenizer=_tokenizer(classifies), device=case.device)
    if classifies:
        found = pipe(texts, batch_size=2, top_k=None, **names)
        return [[one["score"] for one in sorted(each, key=lambda one: str(one["label"]))] for each in found]
    found = pipe(texts, batch_size=2, return_tensors=True, max_new_tokens=4, do_sample=False, **names)
    return [list(map(float, without_tail(each[0]["generated_token_ids"], model))) for each in found]


def _gap(one: List[float], other: List[float]) -> float:
    """Return how far two answers are apart; infinitely where they are of different lengths."""
    return max(abs(a - b) for a, b in zip(one, other)) if len(one) == len(other) else float("inf")


def _texts(case: Case) -> List[str]:
    rows = case.inputs["input_ids"].tolist()
    return [" ".join(f"w{token}" for token in row if token != PAD) for row in rows]


def _tokenizer(right: bool) -> Any:
    """Return a tokenizer whose words are `w0`, `w1`, ..., each one token."""
    try:
        from tokenizers import Tokenizer, models, pre_tokenizers
    except ImportError:
        raise Inapplicable("the tokenizers library is not installed") from None
    import transformers

    words = Tokenizer(models.WordLevel({f"w{token}": token for token in range(VOCABULARY)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token=f"w{PAD}", padding_side="right" if right else "left"
    )
