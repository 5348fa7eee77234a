"""Defects in what is merged into the base weights, taken out of them again, or unloaded."""

from peft.tuners.lora import Linear
from peft.utils import ModulesToSaveWrapper

from tests.faults.planted import fault

MERGING = "merging_gives_the_unmerged_outputs_and_unmerging_restores"


@fault("llama", MERGING)
def merging_leaves_out_the_scaling(patch):
    original = Linear.get_delta_weight
    patch.setattr(Linear, "get_delta_weight", lambda layer, adapter: original(layer, adapter) / layer.scaling[adapter])


@fault("llama", MERGING)
def unmerged_weights_come_out_of_a_lower_precision(patch):
    original = Linear.unmerge

    def unmerge(layer):
        original(layer)
        weight = layer.get_base_layer().weight
        weight.data = weight.data.half().to(weight.dtype)

    patch.setattr(Linear, "unmerge", unmerge)


@fault("bert-sequence-classification", "a_merged_and_unloaded_model_answers_as_its_adapter")
def an_unloaded_model_keeps_the_head_that_was_loaded_first(patch):
    def unload(wrapper, *args, **kwargs):
        return next(iter(wrapper.modules_to_save.values()))

    patch.setattr(ModulesToSaveWrapper, "unload_and_optionally_merge_module", unload)
