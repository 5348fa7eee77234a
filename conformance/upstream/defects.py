"""Every upstream defect on record.

Measured on the cells of the matrix (`tox.ini`), each without the shim; `docs/versions.md` shows what each cell gave.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Tuple

from conformance.upstream.defect import Defect, Sighting, Where
from conformance.upstream.switching import SWITCHING
from conformance.upstream.weighted import WEIGHTED

if TYPE_CHECKING:
    from conformance.models import Model

_LENGTH = r"raised ValueError: Length of `adapter_names`"
_NO_KWARGS = r"unexpected keyword argument 'with_kwargs'"
_WRONG = r"differs by|output rows? of row|was answered"

# Whether a batch that comes out right is right: a mixed forward is made, and its rows are held against their own.
_ROWS = (
    "copies_made_before_during_and_after_a_call_are_right",
    "a_combined_adapter_has_rows_of_its_own",
    "a_batch_of_one_or_under_one_adapter_is_right",
    "a_row_is_right_after_calls_of_other_sizes",
    "a_row_is_right_after_its_adapters_weights_changed",
    "base_rows_equal_the_base_model",
    "bfloat16_rows_are_as_exact_as_alone",
    "each_row_equals_its_own_run",
    "float32_rows_are_as_exact_as_alone",
    "many_adapters_of_any_rank_and_target_are_right",
    "one_sample_under_several_adapters_gives_each_answer",
    "other_adapters_weights_do_not_reach_a_row",
    "reordering_rows_reorders_outputs",
    "success_leaves_no_trace",
)
_SAVED = (
    "each_row_uses_its_own_saved_module",
    "rows_without_a_saved_module_use_the_base_one",
    "adapters_saved_and_loaded_again_have_the_same_rows",
    "rows_of_a_model_with_tied_weights_are_their_own",
)
_HEADS = "heads_of_other_sizes_are_refused_or_given_by_row"
_REFUSALS = ("a_wrong_number_of_names_is_refused_with_both_numbers", "merged_adapters_are_refused")
_UNKNOWN = ("an_unknown_name_is_refused", "an_unknown_name_is_told_those_loaded", "a_deleted_name_is_refused")
_KEYWORD_BEAMS = ("beams_by_keyword_are_the_rows_own", "several_returned_sequences_are_the_rows_own")
_CONFIG_BEAMS = ("beams_by_generation_config_are_the_rows_own", "beams_of_the_models_own_config_are_the_rows_own")
_AHEAD = ("tokens_looked_up_in_the_prompt_are_the_rows_own", "tokens_of_an_assistant_are_the_rows_own")
_QUANTISED_CACHE = "tokens_out_of_a_quantised_cache_are_the_rows_own"
_TOKENS = (
    "greedy_tokens_equal_the_rows_own",
    *_KEYWORD_BEAMS,
    *_CONFIG_BEAMS,
    *_AHEAD,
    "guided_tokens_are_the_rows_own",
    "left_padded_rows_generate_their_own_tokens",
    "tokens_from_embeddings_are_the_rows_own",
    "tokens_out_of_a_cache_of_the_callers_are_the_rows_own",
    "a_streamer_gets_the_rows_own_tokens",
    _QUANTISED_CACHE,
)
_ACTIVE = "the_names_are_used_whatever_is_active"
_TUNERS = "no_tuner_ignores_the_names"
_THREADS = "threads_do_not_affect_each_other"
_COMPILED = "a_generate_that_compiles_itself_gives_the_rows_own_tokens"
_COMPILED_MODEL = "a_compiled_model_gives_each_row_its_own_run_by_one_graph"
_OWN = "a_models_own_adapters_give_each_row_its_own_run"
_OWN_TOKENS = "a_models_own_adapters_generate_each_rows_own_tokens"
_OWN_SWITCHING = "a_models_own_adapters_stay_right_after_switching_and_deleting"
_NO_ADAPTERS = "a_model_without_adapters_refuses_names"
_ELSEWHERE = ("data_parallel_ranks_have_rows_of_their_own", "rows_are_the_same_where_weights_are_kept_elsewhere")
_MIXED = (
    *_ROWS,
    *_SAVED,
    *_REFUSALS,
    *_UNKNOWN,
    *_ELSEWHERE,
    _ACTIVE,
    _HEADS,
    _THREADS,
    "outputs_that_mix_samples_are_refused_by_name",
)
_TRAINED = ("each_adapter_gets_the_gradient_of_its_own_rows", "each_row_is_dropped_by_its_own_adapter")
_TRAINING = (
    *_TRAINED,
    "a_checkpoint_without_reentry_keeps_the_names",
    "a_reentrant_checkpoint_keeps_the_names",
    "a_training_step_changes_what_one_forward_changes",
    "batch_statistics_are_refused_by_name",
)
_HOOKS = {"peft": ">=0.10", "torch": ">=2.0"}


def _every(model: Model) -> bool:
    return True


def _has_rows(model: Model) -> bool:
    return "contrastive" not in model.tags


def _folds(model: Model) -> bool:
    return bool(model.tags & {"folds-batch", "time-major"})


def _whole(model: Model) -> bool:
    return not _folds(model)


def _dispatches(model: Model) -> bool:
    return "experts" in model.tags


def _causal(model: Model) -> bool:
    return "causal-lm" in model.tags


def _takes_anything(model: Model) -> bool:
    """Whether the model's forward takes unknown keywords, and so ignores `adapter_names` (XLNet)."""
    return model.name == "xlnet"


def _is_strict(model: Model) -> bool:
    return not _takes_anything(model)


def _repeats_its_rows(model: Model) -> bool:
    """Whether generate repeats the rows before the encoder, which no hook hears of (Whisper)."""
    return model.name == "whisper"


def _compiles_since_4_53(model: Model) -> bool:
    return model.name == "gpt2"


def _compiles_since_4_51(model: Model) -> bool:
    return not _compiles_since_4_53(model)


def _saves_linear_only(model: Model) -> bool:
    return "integer" in model.tags


def _saves_others(model: Model) -> bool:
    return not _saves_linear_only(model)


def _ignores_names(since: str, models: Where) -> Defect:
    return Defect(
        f"names_ignored_without_adapters_since_{since.replace('.', '_')}",
        "the forwards of these models take any keyword, so that names are ignored where there are no adapters",
        "none yet; huggingface/transformers#25077 (4.33) brought the integration, models took **kwargs one by one",
        {"transformers": f">={since}"},
        (Sighting((_NO_ADAPTERS,), models, r"raised None, but should"),),
    )


DEFECTS: Tuple[Defect, ...] = (
    Defect(
        "no_adapter_names",
        "adapter_names are an unknown keyword, refused by most models and ignored by those that take any",
        "huggingface/peft#1558, peft 0.10.0",
        {"peft": "<0.10"},
        (
            Sighting(
                (*_MIXED, _TUNERS, *_TRAINING),
                _is_strict,
                r"unexpected keyword argument 'adapter_names'",
            ),
            Sighting(
                tuple({*_MIXED, _TUNERS} - {"success_leaves_no_trace"}),
                _takes_anything,
                rf"{_WRONG}|but should be a",
            ),
            Sighting(_TOKENS, _every, r"`model_kwargs` are not used by the model: \['adapter_names'\]"),
        ),
    ),
    Defect(
        "names_ignored_in_training",
        "in training mode too: a model that takes any keyword trains the active adapter on all rows",
        "huggingface/peft#1558, peft 0.10.0",
        {"peft": "<0.10"},
        (Sighting(_TRAINED, _takes_anything, r"gradient"),),
    ),
    Defect(
        "no_training",
        "adapter_names are refused in training mode, so that a batch trains one adapter",
        "none yet; huggingface/peft#1558 (0.10.0) brought the refusal",
        {"peft": ">=0.10"},
        (Sighting(_TRAINING, _every, r"in training mode"),),
    ),
    Defect(
        "hooks_without_kwargs",
        "torch.nn.Module has no hooks with keywords, so that every mixed call raises TypeError",
        "pytorch/pytorch#89389, torch 2.0.0",
        {"torch": "<2.0", "peft": ">=0.10"},
        (
            Sighting(tuple({*_MIXED, *_TOKENS} - {*_UNKNOWN}), _every, _NO_KWARGS),
            Sighting(("a_deleted_name_is_refused",), _has_rows, _NO_KWARGS),  # which answers a call before deleting
        ),
    ),
    Defect(
        "hooks_without_kwargs_before_names",
        "the same for names that are not loaded, which are looked at afterwards",
        "pytorch/pytorch#89389, torch 2.0.0; huggingface/peft#2090, peft 0.14.0",
        {"torch": "<2.0", "peft": ">=0.10,<0.14"},
        (Sighting(_UNKNOWN, _every, _NO_KWARGS),),
    ),
    Defect(
        "folded_batch",
        "a layer that sees other rows than one a sample is refused, or wrong where their numbers agree",
        "none yet; huggingface/peft#1558 (0.10.0) brought one index of rows for all layers",
        _HOOKS,
        (
            Sighting((*_ROWS, _ACTIVE), _folds, rf"{_LENGTH}|{_WRONG}"),
            Sighting(_REFUSALS, _folds, rf"{_LENGTH}|{_WRONG}", certain=False),  # its wrong number may be named, too
            Sighting(("a_deleted_name_is_refused",), _folds, rf"{_LENGTH}|{_WRONG}"),
            Sighting(_SAVED, _folds, rf"{_LENGTH}|{_WRONG}|Mixed batching is only supported|KeyError"),
            Sighting((_THREADS,), _folds, r""),
        ),
    ),
    Defect(
        "dispatched_experts",
        "experts see the tokens of all samples in one list, and are refused by their number",
        "none yet; huggingface/transformers#27942 brought Mixtral's list of experts, which transformers 5.0 fuses",
        {**_HOOKS, "transformers": "<5"},
        (
            Sighting((*_ROWS, "a_deleted_name_is_refused", _ACTIVE), _dispatches, rf"{_LENGTH}|{_WRONG}"),
            Sighting(_REFUSALS, _dispatches, _LENGTH, certain=False),
            Sighting(_TOKENS, _dispatches, _LENGTH),
            Sighting((_THREADS,), _dispatches, r""),
        ),
    ),
    Defect(
        "unknown_names_answered",
        "a name that is not loaded gives the base model's answer",
        "huggingface/peft#2090, peft 0.14.0",
        {**_HOOKS, "peft": ">=0.10,<0.14"},
        (Sighting(_UNKNOWN, _every, rf"was answered|{_LENGTH}"),),
    ),
    Defect(
        "unknown_names_told_no_others",
        "the error for a name that is not loaded does not say which are",
        "none yet; huggingface/peft#2090 (0.14.0) brought the error",
        {"peft": ">=0.14"},
        (Sighting(("an_unknown_name_is_told_those_loaded",), _every, r"non-existing adapter\(s\).*but should be a"),),
    ),
    Defect(
        "saved_modules_of_the_active_adapter",
        "all rows go through the active adapter's saved modules",
        "huggingface/peft#1990, peft 0.13.0",
        {**_HOOKS, "peft": ">=0.10,<0.13"},
        (
            Sighting(_SAVED, _every, rf"{_WRONG}|{_LENGTH}|not found in odict_keys"),
            Sighting((_HEADS,), _whole, r"gave None|left a trace"),
        ),
    ),
    Defect(
        "saved_modules_of_some_types",
        "saved modules other than a few layer types are refused: classification heads, poolers, norms",
        "none yet; huggingface/peft#1990 (0.13.0) brought the refusal",
        {**_HOOKS, "peft": ">=0.13"},
        (Sighting(_SAVED, _saves_others, rf"Mixed batching is only supported|{_LENGTH}|KeyError"),),
    ),
    Defect(
        "rows_without_a_saved_module",
        "a row whose adapter saves nothing where another does raises KeyError",
        "none yet; huggingface/peft#1615 (0.11.0) lets such adapters load",
        {**_HOOKS, "peft": ">=0.13"},
        (Sighting(_SAVED[1:], _every, rf"KeyError|{_LENGTH}|Mixed batching is only supported"),),
    ),
    Defect(
        "trainable_tokens_of_some_adapters",
        "a row whose adapter trains no tokens where another does raises KeyError",
        "none yet; huggingface/peft#2376 (0.15.0) brought tokens beside LoRA",
        {**_HOOKS, "peft": ">=0.15"},
        (Sighting(("trainable_tokens_are_the_rows_own",), _every, rf"KeyError|{_LENGTH}|{_WRONG}"),),
    ),
    *SWITCHING,
    Defect(
        "hooks_left_behind",
        "any exception leaves the hooks of the call on the model, and the next call is routed by them",
        "huggingface/peft#3475, open",
        _HOOKS,
        (
            Sighting(("failure_leaves_no_trace", "a_refused_call_leaves_no_trace", *_AHEAD), _every, r"left a trace"),
            Sighting((_HEADS,), _folds, r"left a trace"),
            Sighting((_HEADS,), _whole, r"left a trace", certain=False),  # answered below 0.13, by one of the heads
        ),
    ),
    Defect(
        "copies_keep_hooks",
        "a model that is copied or pickled in a mixed call keeps the hooks of that call",
        "none yet; huggingface/peft#1558 (0.10.0)",
        _HOOKS,
        (Sighting(("copies_made_before_during_and_after_a_call_are_right",), _has_rows, r"a copy made during"),),
    ),
    Defect(
        "names_ignored_by_tuners",
        "tuners other than LoRA drop the names: every row gets the active adapter",
        "none yet; huggingface/peft#2678 (0.18.0), #2668 and #3098 (0.20.0) for RoAd, HiRA and GLoRA",
        {"peft": ">=0.10"},
        (Sighting((_TUNERS,), _every, r"the names were ignored or mixed up"),),
    ),
    Defect(
        "names_ignored_while_disabled",
        "inside disable_adapter() the names are dropped",
        "none yet; huggingface/peft#1558 (0.10.0)",
        _HOOKS,
        (Sighting((_ACTIVE,), _every, rf"differs by|{_LENGTH}"),),
    ),
    Defect(
        "threads_share_hooks",
        "calls in other threads run through the hooks of a mixed call",
        "none yet; huggingface/peft#1558 (0.10.0)",
        _HOOKS,
        (Sighting((_THREADS,), _whole, r"", certain=False),),
    ),
    Defect(
        "beams",
        "beam search and several returned sequences have more rows than names, and are refused",
        "huggingface/peft#2287, peft 0.15.0, for beams by keyword",
        {**_HOOKS, "peft": ">=0.10,<0.15"},
        (Sighting(_KEYWORD_BEAMS, _every, _LENGTH),),
    ),
    Defect(
        "beams_by_config",
        "beams that a generation config asks for are refused: only the keyword is looked at",
        "none yet; huggingface/peft#2287 (0.15.0) looks at the keyword",
        _HOOKS,
        (Sighting(_CONFIG_BEAMS, _every, _LENGTH),),
    ),
    Defect(
        "beams_of_rows_repeated_by_the_model",
        "returned sequences of Whisper, whose generate repeats the rows itself, are refused",
        "none yet; huggingface/peft#2287 (0.15.0)",
        {**_HOOKS, "peft": ">=0.15"},
        (Sighting(("several_returned_sequences_are_the_rows_own",), _repeats_its_rows, _LENGTH),),
    ),
    Defect(
        "beams_on_transformers_5",
        "the first forward of a beam search has one row a sample on transformers 5, and is refused",
        "huggingface/peft#2921, peft 0.19.0",
        {**_HOOKS, "peft": ">=0.15,<0.19", "transformers": ">=5"},
        (Sighting(_KEYWORD_BEAMS, _causal, _LENGTH),),
    ),
    Defect(
        "scales_of_the_whole_batch",
        "an fp8 cache scales the states of all rows by the greatest of any, so that a row's tokens hang on the others",
        "none yet; huggingface/transformers#48677 (5.23) brought it",
        {**_HOOKS, "transformers": ">=5.23"},
        # A state that is rounded otherwise does not always choose another token.
        (Sighting((_QUANTISED_CACHE,), _causal, r"generated \[", certain=False),),
    ),
    Defect(
        "compiled_generate",
        "a generate that compiles by itself keeps the first call's names: dynamo guards no hooks",
        "none yet; huggingface/transformers#34923 (4.47) brought get_compiled_call",
        {**_HOOKS, "transformers": ">=4.51"},
        (Sighting((_COMPILED,), _compiles_since_4_51, r"generated \["),),
    ),
    Defect(
        "compiled_generate_of_later_models",
        "the same for a model that has a static cache only since then (GPT-2)",
        "none yet; huggingface/transformers#34923 (4.47) brought get_compiled_call",
        {**_HOOKS, "transformers": ">=4.53"},
        (Sighting((_COMPILED,), _compiles_since_4_53, r"generated \["),),
    ),
    Defect(
        "compiled_models",
        "a model that a plain call compiled gives every row the active adapter: dynamo guards no hooks of its layers",
        "none yet; huggingface/peft#1558 (0.10.0)",
        {**_HOOKS, "torch": ">=2.6"},
        (Sighting((_COMPILED_MODEL,), _every, r"differs by"),),
    ),
    Defect(
        "names_for_a_models_own_adapters",
        "a model with adapters of transformers' own integration refuses adapter_names, or ignores them",
        "none yet; huggingface/transformers#25077 (4.33) brought the integration",
        {"transformers": ">=4.33"},
        (
            Sighting((_OWN,), _every, r"unexpected keyword argument 'adapter_names'|differs by"),
            Sighting((_OWN_TOKENS,), _every, r"`model_kwargs` are not used by the model: \['adapter_names'\]"),
        ),
    ),
    Defect(
        "switching_a_models_own_adapters",
        "add_adapter and set_adapter raise where an adapter saves no module that another does",
        "none yet; huggingface/transformers#25077 (4.33) brought the integration",
        {"transformers": ">=4.33"},
        (Sighting((_OWN_SWITCHING,), _every, r"Adapter \w+ not found in"),),
    ),
    Defect(
        "names_for_a_pipelines_texts",
        "a pipeline gives adapter_names to its tokenizer, which ignores or refuses them, or all of them to every batch",
        "none yet; huggingface/transformers#25077 (4.33) brought adapters to pipelines",
        {"transformers": ">=4.33"},
        (
            Sighting(
                ("a_pipeline_gives_each_text_its_own_adapter",),
                _every,
                rf"but should \[|unexpected keyword argument|{_LENGTH}|`model_kwargs` are not used",
            ),
        ),
    ),
    *WEIGHTED,
    _ignores_names("4.33", _takes_anything),
    _ignores_names("4.46", lambda model: model.name in ("llama", "mixtral")),
    _ignores_names("4.51", lambda model: model.name == "gpt2"),
    _ignores_names("4.56", lambda model: model.name == "vit"),
    _ignores_names("5", _every),
)
