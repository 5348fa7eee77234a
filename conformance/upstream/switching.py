"""The upstream defects of loading, switching, disabling, merging and deleting adapters, without any mixed call."""

from __future__ import annotations

from typing import Tuple

from conformance.upstream import reach
from conformance.upstream.defect import Defect, Sighting

_DELETING = "adapters_stay_right_after_loading_and_deleting"

SWITCHING: Tuple[Defect, ...] = (
    Defect(
        "adapters_without_saved_modules_raise",
        "set_adapter raises where an adapter saves nothing that another does",
        "huggingface/peft#1615, peft 0.11.0",
        {"peft": "<0.11"},
        (
            Sighting(
                (
                    "adapters_stay_right_after_switching_and_disabling",
                    "a_merged_and_unloaded_model_answers_as_its_adapter",
                    reach.INSIDE_SAVED,
                ),
                reach.every,
                r"not found in odict_keys",
            ),
        ),
    ),
    Defect(
        "saved_modules_stay_disabled",
        "after switching to an adapter that saves nothing, a saved module stays disabled, silently",
        "huggingface/peft#2422 and #2430, peft 0.15.0",
        {"peft": ">=0.11,<0.15"},
        (Sighting(("adapters_stay_right_after_switching_and_disabling",), reach.every, r"differs by"),),
    ),
    Defect(
        "disabling_uses_another_adapters_module",
        "after disable_adapter() a module that the active adapter does not save is another adapter's, silently",
        "huggingface/peft#2758, peft 0.18.0",
        {"peft": ">=0.15,<0.18"},
        (Sighting(("adapters_stay_right_after_switching_and_disabling",), reach.every, r"differs by"),),
    ),
    Defect(
        "unloading_another_adapters_module",
        "unload and merge_and_unload keep another adapter's saved module, or raise, if the active one saves nothing",
        "huggingface/peft#3455, peft 0.21.0",
        {"peft": ">=0.11,<0.21"},
        (
            Sighting(
                ("a_merged_and_unloaded_model_answers_as_its_adapter",), reach.every, r"differs by|TypeError was raised"
            ),
        ),
    ),
    Defect(
        "deleting_leaves_a_mixture",
        "after the active adapter is deleted each layer picks its own next one, or its saved modules are still there",
        "none yet; huggingface/peft#2466 (0.16.0) deletes the modules",
        {"peft": ">=0.9"},
        # Adapters that are drawn with the same targets let every layer pick the same next one.
        (Sighting((_DELETING,), reach.every, r"differs by|KeyError", certain=False),),
    ),
    Defect(
        "deleting_a_merged_adapter",
        "a merged adapter is deleted, and its weights stay in the base model's for good",
        "huggingface/peft#3504, peft 0.21.0",
        {"peft": "<0.21"},
        (Sighting(("a_merged_adapter_is_not_deleted",), reach.every, r"gave None|gave KeyError"),),
    ),
    Defect(
        "enabled_while_disabled",
        "an adapter that is added while all are disabled is enabled in the layers that only it touches",
        "none yet; huggingface/peft#1663 (0.11.0) calls such a model irregular",
        {"peft": ">=0.9"},
        (Sighting(("a_disabled_model_stays_the_base_model_whatever_is_added",), reach.every, r"differs by"),),
    ),
    Defect(
        "a_failed_load_leaves_its_adapter",
        "an adapter that failed to load stays in the model and answers to its name, without its weights",
        "none yet; huggingface/peft#798 was closed when add_adapter was rolled back",
        {"peft": ">=0.9"},
        (Sighting(("an_adapter_that_failed_to_load_is_not_there",), reach.every, r"of its parts are left"),),
    ),
)
