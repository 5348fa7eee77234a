"""How far an upstream defect reaches: the checks that show it, by what they do, and the models."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conformance.models import Model

# Whether a batch that comes out right is right: a mixed forward is made, and its rows are held against their own.
ROWS = (
    "copies_made_before_during_and_after_a_call_are_right",
    "a_combined_adapter_has_rows_of_its_own",
    "a_batch_of_one_or_under_one_adapter_is_right",
    "a_row_is_right_after_calls_of_other_sizes",
    "a_row_is_right_after_its_adapters_weights_changed",
    "base_rows_equal_the_base_model",
    "bfloat16_rows_are_as_exact_as_alone",
    "each_row_equals_its_own_run",
    "every_layers_states_are_the_rows_own",
    "float32_rows_are_as_exact_as_alone",
    "many_adapters_of_any_rank_and_target_are_right",
    "one_sample_under_several_adapters_gives_each_answer",
    "other_adapters_weights_do_not_reach_a_row",
    "reordering_rows_reorders_outputs",
    "success_leaves_no_trace",
)
SAVED = (
    "each_row_uses_its_own_saved_module",
    "rows_without_a_saved_module_use_the_base_one",
    "adapters_saved_and_loaded_again_have_the_same_rows",
    "rows_of_a_model_with_tied_weights_are_their_own",
)
SAVED_ATTENTION = "a_saved_attention_fills_its_cache_once"
INSIDE_SAVED = "rows_of_adapters_inside_a_saved_module_are_their_own"
TRAINED_TOKENS = "trainable_tokens_are_the_rows_own"
OWN_CLASS = "a_layer_of_its_own_class_that_mixes_samples_is_refused_by_name"
ORDER = "samples_in_another_order_are_refused"
HEADS = "heads_of_other_sizes_are_refused_or_given_by_row"
REFUSALS = ("a_wrong_number_of_names_is_refused_with_both_numbers", "merged_adapters_are_refused")
UNKNOWN = ("an_unknown_name_is_refused", "an_unknown_name_is_told_those_loaded", "a_deleted_name_is_refused")
KEYWORD_BEAMS = ("beams_by_keyword_are_the_rows_own", "several_returned_sequences_are_the_rows_own")
CONFIG_BEAMS = ("beams_by_generation_config_are_the_rows_own", "beams_of_the_models_own_config_are_the_rows_own")
AHEAD = ("tokens_looked_up_in_the_prompt_are_the_rows_own", "tokens_of_an_assistant_are_the_rows_own")
QUANTISED_CACHE = "tokens_out_of_a_quantised_cache_are_the_rows_own"
TOKENS = (
    "greedy_tokens_equal_the_rows_own",
    *KEYWORD_BEAMS,
    *CONFIG_BEAMS,
    *AHEAD,
    "guided_tokens_are_the_rows_own",
    "left_padded_rows_generate_their_own_tokens",
    "tokens_from_embeddings_are_the_rows_own",
    "tokens_out_of_a_cache_of_the_callers_are_the_rows_own",
    "a_streamer_gets_the_rows_own_tokens",
    QUANTISED_CACHE,
)
ACTIVE = "the_names_are_used_whatever_is_active"
TUNERS = "no_tuner_ignores_the_names"
FAILING = "failure_leaves_no_trace"
REFUSED = "a_refused_call_leaves_no_trace"
THREADS = "threads_do_not_affect_each_other"
COMPILED = "a_generate_that_compiles_itself_gives_the_rows_own_tokens"
COMPILED_MODEL = "a_compiled_model_gives_each_row_its_own_run_by_one_graph"
OWN = "a_models_own_adapters_give_each_row_its_own_run"
OWN_TOKENS = "a_models_own_adapters_generate_each_rows_own_tokens"
OWN_SWITCHING = "a_models_own_adapters_stay_right_after_switching_and_deleting"
NO_ADAPTERS = "a_model_without_adapters_refuses_names"
ELSEWHERE = ("data_parallel_ranks_have_rows_of_their_own", "rows_are_the_same_where_weights_are_kept_elsewhere")
MIXED = (
    *ROWS,
    *SAVED,
    SAVED_ATTENTION,
    INSIDE_SAVED,
    *REFUSALS,
    *UNKNOWN,
    *ELSEWHERE,
    ACTIVE,
    HEADS,
    OWN_CLASS,
    ORDER,
    THREADS,
    "outputs_that_mix_samples_are_refused_by_name",
)
TRAINED = ("each_adapter_gets_the_gradient_of_its_own_rows", "each_row_is_dropped_by_its_own_adapter")
TRAINING = (
    *TRAINED,
    "a_checkpoint_without_reentry_keeps_the_names",
    "a_reentrant_checkpoint_keeps_the_names",
    "a_training_step_changes_what_one_forward_changes",
    "batch_statistics_are_refused_by_name",
)


def every(model: Model) -> bool:
    """Return whether it is a model."""
    return True


def has_rows(model: Model) -> bool:
    """Return whether outputs belong to samples."""
    return model.has_rows


def folds(model: Model) -> bool:
    """Return whether layers see other rows than one a sample."""
    return bool(model.tags & {"folds-batch", "time-major"})


def sorts(model: Model) -> bool:
    """Return whether layers see the samples in an order that hangs on their values."""
    return "sorts-rows" in model.tags


def whole(model: Model) -> bool:
    """Return whether every layer sees one row a sample."""
    return not folds(model)


def dispatches(model: Model) -> bool:
    """Return whether tokens of all samples go to experts."""
    return "experts" in model.tags


def causal(model: Model) -> bool:
    """Return whether the model continues its prompt."""
    return "causal-lm" in model.tags


def takes_anything(model: Model) -> bool:
    """Whether the model's forward takes unknown keywords, and so ignores `adapter_names` (XLNet)."""
    return model.name == "xlnet"


def is_strict(model: Model) -> bool:
    """Return whether an unknown keyword is refused."""
    return not takes_anything(model)


def repeats_its_rows(model: Model) -> bool:
    """Whether generate repeats the rows before the encoder, which no hook hears of (Whisper)."""
    return model.name == "whisper"


def compiles_since_4_53(model: Model) -> bool:
    """Return whether the model has a static cache only since transformers 4.53."""
    return model.name == "gpt2"


def compiles_since_4_51(model: Model) -> bool:
    """Return whether it had one before."""
    return not compiles_since_4_53(model)


def saves_linear_only(model: Model) -> bool:
    """Return whether what adapters save of the model is one linear layer."""
    return "integer" in model.tags


def saves_others(model: Model) -> bool:
    """Return whether it is another layer, too."""
    return not saves_linear_only(model)
