"""Every upstream defect on record.

Measured on the cells of the matrix (`tox.ini`), each without the shim; `docs/versions.md` shows what each cell gave.
"""

from __future__ import annotations

from typing import Tuple

from conformance.upstream import reach
from conformance.upstream.defect import Defect, Sighting, Where
from conformance.upstream.switching import SWITCHING
from conformance.upstream.weighted import WEIGHTED

_LENGTH = r"raised ValueError: Length of `adapter_names`"
_NO_KWARGS = r"unexpected keyword argument 'with_kwargs'"
_WRONG = r"differs by|output rows? of row|was answered"

_HOOKS = {"peft": ">=0.10", "torch": ">=2.0"}


def _ignores_names(since: str, models: Where) -> Defect:
    return Defect(
        f"names_ignored_without_adapters_since_{since.replace('.', '_')}",
        "the forwards of these models take any keyword, so that names are ignored where there are no adapters",
        "none yet; huggingface/transformers#25077 (4.33) brought the integration, models took **kwargs one by one",
        {"transformers": f">={since}"},
        (Sighting((reach.NO_ADAPTERS,), models, r"raised None, but should"),),
    )


DEFECTS: Tuple[Defect, ...] = (
    Defect(
        "no_adapter_names",
        "adapter_names are an unknown keyword, refused by most models and ignored by those that take any",
        "huggingface/peft#1558, peft 0.10.0",
        {"peft": "<0.10"},
        (
            Sighting(
                (*reach.MIXED, reach.TUNERS, *reach.TRAINING, reach.FAILING),
                reach.is_strict,
                r"unexpected keyword argument 'adapter_names'",
            ),
            Sighting(
                tuple({*reach.MIXED, reach.TUNERS, reach.REFUSED} - {"success_leaves_no_trace"}),
                reach.takes_anything,
                rf"{_WRONG}|but should be a",
            ),
            Sighting(reach.TOKENS, reach.every, r"`model_kwargs` are not used by the model: \['adapter_names'\]"),
        ),
    ),
    Defect(
        "names_ignored_in_training",
        "in training mode too: a model that takes any keyword trains the active adapter on all rows",
        "huggingface/peft#1558, peft 0.10.0",
        {"peft": "<0.10"},
        (Sighting(reach.TRAINED, reach.takes_anything, r"gradient"),),
    ),
    Defect(
        "no_training",
        "adapter_names are refused in training mode, so that a batch trains one adapter",
        "none yet; huggingface/peft#1558 (0.10.0) brought the refusal",
        {"peft": ">=0.10"},
        (Sighting(reach.TRAINING, reach.every, r"in training mode"),),
    ),
    Defect(
        "hooks_without_kwargs",
        "torch.nn.Module has no hooks with keywords, so that every mixed call raises TypeError",
        "pytorch/pytorch#89389, torch 2.0.0",
        {"torch": "<2.0", "peft": ">=0.10"},
        (
            Sighting(
                tuple({*reach.MIXED, *reach.TOKENS, reach.TRAINED_TOKENS, reach.FAILING} - {*reach.UNKNOWN}),
                reach.every,
                _NO_KWARGS,
            ),
            # It answers a call before deleting.
            Sighting(("a_deleted_name_is_refused",), reach.has_rows, _NO_KWARGS),
        ),
    ),
    Defect(
        "hooks_without_kwargs_before_names",
        "the same for names that are not loaded, which are looked at afterwards",
        "pytorch/pytorch#89389, torch 2.0.0; huggingface/peft#2090, peft 0.14.0",
        {"torch": "<2.0", "peft": ">=0.10,<0.14"},
        (Sighting(reach.UNKNOWN, reach.every, _NO_KWARGS),),
    ),
    Defect(
        "folded_batch",
        "a layer that sees other rows than one a sample is refused, or wrong where their numbers agree",
        "none yet; huggingface/peft#1558 (0.10.0) brought one index of rows for all layers",
        _HOOKS,
        (
            Sighting((*reach.ROWS, reach.ACTIVE), reach.folds, rf"{_LENGTH}|{_WRONG}"),
            # Its wrong number may be named, too.
            Sighting((*reach.REFUSALS, reach.REFUSED), reach.folds, rf"{_LENGTH}|{_WRONG}", certain=False),
            Sighting(("a_deleted_name_is_refused",), reach.folds, rf"{_LENGTH}|{_WRONG}"),
            Sighting(reach.SAVED, reach.folds, rf"{_LENGTH}|{_WRONG}|Mixed batching is only supported|KeyError"),
            Sighting((reach.THREADS,), reach.folds, r""),
        ),
    ),
    Defect(
        "rows_in_another_order",
        "a layer that sees the samples in another order, sorted by length, gives rows another's adapter, silently",
        "none yet; huggingface/peft#1558 (0.10.0) brought one index of rows for all layers",
        _HOOKS,
        (
            Sighting(("each_row_equals_its_own_run", "reordering_rows_reorders_outputs"), reach.sorts, _WRONG),
            # Names that read the same backwards are right in the other order too.
            Sighting((*reach.ROWS, *reach.SAVED, reach.ACTIVE), reach.sorts, _WRONG, certain=False),
            Sighting(("a_deleted_name_is_refused",), reach.sorts, _WRONG, certain=False),
        ),
    ),
    Defect(
        "outputs_in_another_order",
        "a model that puts its samples in another order gives a sample the adapter of another, silently",
        "none yet; huggingface/peft#1558 (0.10.0) brought one index of rows for all layers",
        _HOOKS,
        (Sighting((reach.ORDER,), reach.every, rf"{_WRONG}|{_LENGTH}"),),
    ),
    Defect(
        "layers_that_mix_samples",
        "an adapted layer whose own forward makes a row of other samples' too is run all the same, silently",
        "none yet; huggingface/peft#1558 (0.10.0) brought mixed batches",
        _HOOKS,
        (Sighting((reach.OWN_CLASS,), reach.every, rf"{_WRONG}|{_LENGTH}"),),
    ),
    Defect(
        "dispatched_experts",
        "experts see the tokens of all samples in one list, and are refused by their number",
        "none yet; huggingface/transformers#27942 brought Mixtral's list of experts, which transformers 5.0 fuses",
        {**_HOOKS, "transformers": "<5"},
        (
            Sighting(
                (*reach.ROWS, "a_deleted_name_is_refused", reach.ACTIVE), reach.dispatches, rf"{_LENGTH}|{_WRONG}"
            ),
            Sighting(reach.REFUSALS, reach.dispatches, _LENGTH, certain=False),
            Sighting(reach.TOKENS, reach.dispatches, _LENGTH),
            Sighting((reach.THREADS,), reach.dispatches, r""),
        ),
    ),
    Defect(
        "unknown_names_answered",
        "a name that is not loaded gives the base model's answer",
        "huggingface/peft#2090, peft 0.14.0",
        {**_HOOKS, "peft": ">=0.10,<0.14"},
        (Sighting(reach.UNKNOWN, reach.every, rf"was answered|{_LENGTH}"),),
    ),
    Defect(
        "unknown_names_told_no_others",
        "the error for a name that is not loaded does not say which are",
        "none yet; huggingface/peft#2090 (0.14.0) brought the error",
        {"peft": ">=0.14"},
        (
            Sighting(
                ("an_unknown_name_is_told_those_loaded",), reach.every, r"non-existing adapter\(s\).*but should be a"
            ),
        ),
    ),
    Defect(
        "saved_modules_of_the_active_adapter",
        "all rows go through the active adapter's saved modules",
        "huggingface/peft#1990, peft 0.13.0",
        {**_HOOKS, "peft": ">=0.10,<0.13"},
        (
            Sighting(
                (*reach.SAVED, reach.SAVED_ATTENTION, reach.INSIDE_SAVED),
                reach.every,
                rf"{_WRONG}|{_LENGTH}|not found in odict_keys",
            ),
            Sighting((reach.HEADS,), reach.whole, r"gave None|left a trace"),
        ),
    ),
    Defect(
        "saved_modules_that_the_active_adapter_lacks",
        "all rows go through the base's module where the active adapter does not save it, silently",
        "huggingface/peft#2936, peft 0.19.0",
        {**_HOOKS, "peft": ">=0.13,<0.19"},
        (Sighting((reach.INSIDE_SAVED,), reach.every, rf"{_WRONG}|{_LENGTH}"),),
    ),
    Defect(
        "saved_modules_of_some_types",
        "saved modules other than a few layer types are refused: classification heads, poolers, norms",
        "none yet; huggingface/peft#1990 (0.13.0) brought the refusal",
        {**_HOOKS, "peft": ">=0.13"},
        (
            Sighting(
                (*reach.SAVED, reach.INSIDE_SAVED),
                reach.saves_others,
                rf"Mixed batching is only supported|{_LENGTH}|KeyError",
            ),
            # It may be called by keywords only, which that code does not expect.
            Sighting(
                (reach.SAVED_ATTENTION,),
                reach.every,
                r"Mixed batching is only supported|_mixed_batch_forward\(\) missing",
            ),
        ),
    ),
    Defect(
        "rows_without_a_saved_module",
        "a row whose adapter saves nothing where another does raises KeyError",
        "none yet; huggingface/peft#1615 (0.11.0) lets such adapters load",
        {**_HOOKS, "peft": ">=0.13"},
        (Sighting(reach.SAVED[1:], reach.every, rf"KeyError|{_LENGTH}|Mixed batching is only supported"),),
    ),
    Defect(
        "trainable_tokens_of_some_adapters",
        "a row whose adapter trains no tokens where another does raises KeyError",
        "none yet; huggingface/peft#2376 (0.15.0) brought tokens beside LoRA",
        {**_HOOKS, "peft": ">=0.15"},
        (Sighting((reach.TRAINED_TOKENS,), reach.every, rf"KeyError|{_LENGTH}|{_WRONG}"),),
    ),
    *SWITCHING,
    Defect(
        "hooks_left_behind",
        "any exception leaves the hooks of the call on the model, and the next call is routed by them",
        "huggingface/peft#3475, open",
        _HOOKS,
        (
            Sighting(
                (reach.FAILING, reach.REFUSED, *reach.AHEAD),
                reach.every,
                r"left a trace",
            ),
            Sighting((reach.HEADS,), reach.folds, r"left a trace"),
            # Answered below 0.13, by one of the heads.
            Sighting((reach.HEADS,), reach.whole, r"left a trace", certain=False),
        ),
    ),
    Defect(
        "copies_keep_hooks",
        "a model that is copied or pickled in a mixed call keeps the hooks of that call",
        "none yet; huggingface/peft#1558 (0.10.0)",
        _HOOKS,
        (Sighting(("copies_made_before_during_and_after_a_call_are_right",), reach.has_rows, r"a copy made during"),),
    ),
    Defect(
        "names_ignored_by_tuners",
        "tuners other than LoRA drop the names: every row gets the active adapter",
        "none yet; huggingface/peft#2678 (0.18.0), #2668 and #3098 (0.20.0) for RoAd, HiRA and GLoRA",
        {"peft": ">=0.10"},
        (Sighting((reach.TUNERS,), reach.every, r"the names were ignored or mixed up"),),
    ),
    Defect(
        "names_ignored_while_disabled",
        "inside disable_adapter() the names are dropped",
        "none yet; huggingface/peft#1558 (0.10.0)",
        _HOOKS,
        (Sighting((reach.ACTIVE,), reach.every, rf"differs by|{_LENGTH}"),),
    ),
    Defect(
        "threads_share_hooks",
        "calls in other threads run through the hooks of a mixed call",
        "none yet; huggingface/peft#1558 (0.10.0)",
        _HOOKS,
        (Sighting((reach.THREADS,), reach.whole, r"", certain=False),),
    ),
    Defect(
        "beams",
        "beam search and several returned sequences have more rows than names, and are refused",
        "huggingface/peft#2287, peft 0.15.0, for beams by keyword",
        {**_HOOKS, "peft": ">=0.10,<0.15"},
        (Sighting(reach.KEYWORD_BEAMS, reach.every, _LENGTH),),
    ),
    Defect(
        "beams_by_config",
        "beams that a generation config asks for are refused: only the keyword is looked at",
        "none yet; huggingface/peft#2287 (0.15.0) looks at the keyword",
        _HOOKS,
        (Sighting(reach.CONFIG_BEAMS, reach.every, _LENGTH),),
    ),
    Defect(
        "beams_of_rows_repeated_by_the_model",
        "returned sequences of Whisper, whose generate repeats the rows itself, are refused",
        "none yet; huggingface/peft#2287 (0.15.0)",
        {**_HOOKS, "peft": ">=0.15"},
        (Sighting(("several_returned_sequences_are_the_rows_own",), reach.repeats_its_rows, _LENGTH),),
    ),
    Defect(
        "beams_on_transformers_5",
        "the first forward of a beam search has one row a sample on transformers 5, and is refused",
        "huggingface/peft#2921, peft 0.19.0",
        {**_HOOKS, "peft": ">=0.15,<0.19", "transformers": ">=5"},
        (Sighting(reach.KEYWORD_BEAMS, reach.causal, _LENGTH),),
    ),
    Defect(
        "scales_of_the_whole_batch",
        "an fp8 cache scales the states of all rows by the greatest of any, so that a row's tokens hang on the others",
        "none yet; huggingface/transformers#48677 (5.23) brought it",
        {**_HOOKS, "transformers": ">=5.23"},
        # A state that is rounded otherwise does not always choose another token.
        (Sighting((reach.QUANTISED_CACHE,), reach.causal, r"generated \[", certain=False),),
    ),
    Defect(
        "compiled_generate",
        "a generate that compiles by itself keeps the first call's names: dynamo guards no hooks",
        "none yet; huggingface/transformers#34923 (4.47) brought get_compiled_call",
        {**_HOOKS, "transformers": ">=4.51"},
        (Sighting((reach.COMPILED,), reach.compiles_since_4_51, r"generated \["),),
    ),
    Defect(
        "compiled_generate_of_later_models",
        "the same for a model that has a static cache only since then (GPT-2)",
        "none yet; huggingface/transformers#34923 (4.47) brought get_compiled_call",
        {**_HOOKS, "transformers": ">=4.53"},
        (Sighting((reach.COMPILED,), reach.compiles_since_4_53, r"generated \["),),
    ),
    Defect(
        "compiled_models",
        "a model that a plain call compiled gives every row the active adapter: dynamo guards no hooks of its layers",
        "none yet; huggingface/peft#1558 (0.10.0)",
        {**_HOOKS, "torch": ">=2.6"},
        (Sighting((reach.COMPILED_MODEL,), reach.every, r"differs by"),),
    ),
    Defect(
        "names_for_a_models_own_adapters",
        "a model with adapters of transformers' own integration refuses adapter_names, or ignores them",
        "none yet; huggingface/transformers#25077 (4.33) brought the integration",
        {"transformers": ">=4.33"},
        (
            Sighting((reach.OWN,), reach.every, r"unexpected keyword argument 'adapter_names'|differs by"),
            Sighting(
                (reach.OWN_TOKENS,), reach.every, r"`model_kwargs` are not used by the model: \['adapter_names'\]"
            ),
        ),
    ),
    Defect(
        "switching_a_models_own_adapters",
        "add_adapter and set_adapter raise where an adapter saves no module that another does",
        "none yet; huggingface/transformers#25077 (4.33) brought the integration",
        {"transformers": ">=4.33"},
        (Sighting((reach.OWN_SWITCHING,), reach.every, r"Adapter \w+ not found in"),),
    ),
    Defect(
        "names_for_a_pipelines_texts",
        "a pipeline gives adapter_names to its tokenizer, which ignores or refuses them, or all of them to every batch",
        "none yet; huggingface/transformers#25077 (4.33) brought adapters to pipelines",
        {"transformers": ">=4.33"},
        (
            Sighting(
                ("a_pipeline_gives_each_text_its_own_adapter",),
                reach.every,
                rf"but should \[|unexpected keyword argument|{_LENGTH}|`model_kwargs` are not used",
            ),
        ),
    ),
    *WEIGHTED,
    _ignores_names("4.33", reach.takes_anything),
    _ignores_names("4.46", lambda model: model.name in ("llama", "mixtral")),
    _ignores_names("4.51", lambda model: model.name == "gpt2"),
    _ignores_names("4.56", lambda model: model.name == "vit"),
    _ignores_names("5", reach.every),
)
