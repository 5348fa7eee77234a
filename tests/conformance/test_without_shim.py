"""Without the shim the suite reports exactly what is broken in the installed PEFT, and nothing else.

The expectation is that of PEFT 0.21.2 with transformers 5.23 (VERSIONS: "What is broken, by peft version").
Threads (S3) are left out here: whether they collide in one run is chance.
"""

import peft
import pytest

from conformance.checks import CHECKS
from conformance.examination import examine
from conformance.models import MODELS
from conformance.settings import Settings
from conformance.verdict import Outcome

pytestmark = pytest.mark.skipif(peft.__version__ != "0.21.2", reason="the expectation is PEFT 0.21.2's")

SHOWN = (
    "integers",
    "bert",
    "roberta-sequence-classification",
    "llama",
    "t5",
    "xlnet",
    "mobilevit",
    "swin",
    "clip",
)
FOLDING = {"xlnet", "mobilevit", "swin"}
ROWS = set(SHOWN) - {"clip"}

BROKEN = {
    # refused by a length error wherever the batch is folded or transposed
    "each_row_equals_its_own_run": FOLDING,
    "reordering_rows_reorders_outputs": FOLDING,
    "a_row_is_right_after_calls_of_other_sizes": FOLDING,
    "base_rows_equal_the_base_model": FOLDING,
    "other_adapters_weights_do_not_reach_a_row": FOLDING,
    "one_sample_under_several_adapters_gives_each_answer": FOLDING,
    "a_batch_of_one_or_under_one_adapter_is_right": FOLDING,
    "many_adapters_of_any_rank_and_target_are_right": FOLDING,
    "success_leaves_no_trace": FOLDING,
    "a_wrong_number_of_names_is_refused_with_both_numbers": FOLDING,
    "merged_adapters_are_refused": FOLDING,
    "a_deleted_name_is_refused": FOLDING,
    "float32_rows_are_as_exact_as_alone": FOLDING,
    "bfloat16_rows_are_as_exact_as_alone": FOLDING,
    # saved modules: refused unless a Linear; KeyError where an adapter saves none
    "each_row_uses_its_own_saved_module": ROWS - {"integers"},
    "rows_without_a_saved_module_use_the_base_one": ROWS,
    # deleting the active adapter leaves a mixture of the others, or a name that is gone (not in VERSIONS: found here)
    "adapters_stay_right_after_loading_and_deleting": ROWS,
    # beams that are not given by keyword (none of these models is Whisper, whose generate repeats rows itself)
    "beams_by_generation_config_are_the_rows_own": {"llama", "t5"},
    "beams_of_the_models_own_config_are_the_rows_own": {"llama", "t5"},
    # hooks left behind (#3475)
    "failure_leaves_no_trace": set(SHOWN),
    "a_refused_call_leaves_no_trace": set(SHOWN),
    # names ignored: by other tuners, and while adapters are disabled
    "no_tuner_ignores_the_names": ROWS,
    "the_names_are_used_whatever_is_active": ROWS,
    # an unknown name is refused, but the error does not say which there are
    "an_unknown_name_is_told_those_loaded": set(SHOWN),
}


@pytest.mark.parametrize("name", sorted(set(CHECKS) - {"threads_do_not_affect_each_other"}))
def test_a_check_fails_on_upstream_exactly_where_upstream_is_broken(name):
    # More scenarios where something is broken, since a single one may be right by luck: which are drawn depends on the
    # constants in the modules that happen to be imported (hypothesis collects them).
    settings = Settings(with_shim=False, examples=6 if name in BROKEN else 2)
    verdicts = {model: examine(MODELS[model], CHECKS[name], settings) for model in SHOWN}
    failed = {model for model, verdict in verdicts.items() if verdict.outcome is Outcome.FAIL}
    assert failed == BROKEN.get(name, set()), {m: v.detail for m, v in verdicts.items()}
    assert all(verdicts[model].reproduction for model in failed)
    others = {verdict.outcome for model, verdict in verdicts.items() if model not in failed}
    assert others <= {Outcome.PASS, Outcome.SKIPPED}


def test_the_reproduction_of_a_failure_fails_when_pasted():
    settings = Settings(with_shim=False, examples=2)
    verdict = examine(MODELS["mobilevit"], CHECKS["each_row_equals_its_own_run"], settings)
    with pytest.raises(ValueError, match="Length of `adapter_names`"):
        exec(verdict.reproduction, {})
