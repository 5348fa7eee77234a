"""Defects in what follows when an adapter comes, goes, is made active or disabled."""

from peft import PeftModel
from peft.tuners import tuners_utils
from peft.utils import ModulesToSaveWrapper, other

import shim.patches.disabled_stay_disabled
import shim.patches.saved_modules_delete
from tests.faults.planted import fault

CLASSIFIER = "bert-sequence-classification"
COMING_AND_GOING = "adapters_stay_right_after_loading_and_deleting"
SWITCHING = "adapters_stay_right_after_switching_and_disabling"
DISABLED = "a_disabled_model_stays_the_base_model_whatever_is_added"


@fault(CLASSIFIER, COMING_AND_GOING)
def heads_follow_what_is_loaded_last(patch):
    original = PeftModel.add_adapter

    def add_adapter(model, name, *args, **kwargs):
        original(model, name, *args, **kwargs)
        other._set_adapter(model, name)

    patch.setattr(PeftModel, "add_adapter", add_adapter)


@fault(CLASSIFIER, COMING_AND_GOING)
def the_head_of_a_deleted_adapter_stays_in_use(patch):
    patch.setattr(ModulesToSaveWrapper, "delete_adapter", lambda *args, **kwargs: None)
    patch.setattr(shim.patches.saved_modules_delete, "delete_saved_modules", lambda model, name: None)
    patch.setattr(shim.patches.saved_modules_delete, "_active", lambda model: [])


@fault(CLASSIFIER, SWITCHING)
def heads_are_not_disabled(patch):
    patch.setattr(ModulesToSaveWrapper, "enable_adapters", lambda wrapper, enabled: None)


@fault(CLASSIFIER, SWITCHING)
def enabling_brings_the_first_head_into_use(patch):
    original = ModulesToSaveWrapper.enable_adapters

    def enable_adapters(wrapper, enabled):
        if enabled:
            wrapper.set_adapter(next(iter(wrapper.modules_to_save)))
        original(wrapper, enabled)

    patch.setattr(ModulesToSaveWrapper, "enable_adapters", enable_adapters)


@fault("bert", DISABLED)
def layers_that_come_later_are_not_disabled(patch):
    original, known = shim.patches.disabled_stay_disabled._layers, {}

    def layers(model):
        return known.setdefault(model, original(model))

    patch.setattr(shim.patches.disabled_stay_disabled, "_layers", layers)


@fault("bert", DISABLED)
def making_an_adapter_active_enables_it(patch):
    original = PeftModel.set_adapter

    def set_adapter(model, name, *args, **kwargs):
        original(model, name, *args, **kwargs)
        model.enable_adapter_layers()

    patch.setattr(PeftModel, "set_adapter", set_adapter)


@fault("bert", "a_merged_adapter_is_not_deleted")
def a_merged_adapter_is_deleted(patch):
    patch.setattr(shim.patches.saved_modules_delete, "_check_not_merged", lambda model, name: None)
    # Breakpoint: huggingface/peft#3504, peft 0.21.0: upstream refuses likewise.
    patch.setattr(tuners_utils, "_check_adapters_not_merged", lambda model, names: None, raising=False)
