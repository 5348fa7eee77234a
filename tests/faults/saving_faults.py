"""Defects in what is saved, copied and loaded, and in what adapters save beside their layers."""

import shim.batch
import shim.call
import shim.modules
import shim.routing.layers
import shim.routing.split
from shim.batch import missing
from tests.faults.planted import ONE_PASS, fault


@fault("llama", "adapters_saved_and_loaded_again_have_the_same_rows")
def saved_modules_lose_their_weights_in_the_file(patch):
    import peft.peft_model as upstream

    original = upstream.get_peft_model_state_dict

    def get_peft_model_state_dict(*args, **kwargs):
        state = original(*args, **kwargs)
        return {path: tensor if "lora_" in path else 0 * tensor for path, tensor in state.items()}

    patch.setattr(upstream, "get_peft_model_state_dict", get_peft_model_state_dict)


def pass_on(module, args):
    """Do nothing, as a hook that can be pickled."""


@fault("bert", "copies_made_before_during_and_after_a_call_are_right")
def layers_have_hooks_while_a_call_runs(patch):
    original = shim.call._start

    def start(run, function, batch, *more):
        handles = [layer.register_forward_pre_hook(pass_on) for _, layer in batch.layers]
        try:
            return original(run, function, batch, *more)
        finally:
            for handle in handles:
                handle.remove()

    patch.setattr(shim.call, "_start", start)


@fault("roberta-sequence-classification", "heads_of_other_sizes_are_refused_or_given_by_row")
def outputs_by_row_come_in_reverse(patch):
    original = shim.routing.split.taken_apart
    patch.setattr(shim.routing.split, "taken_apart", lambda *given: original(*given)[::-1])


@fault(ONE_PASS, "llama", "rows_of_adapters_inside_a_saved_module_are_their_own")
def what_a_saved_module_wraps_is_not_looked_into(patch):
    patch.setattr(shim.routing.layers, "_absent_inside", lambda layer, adapters: missing(layer, tuple(adapters)))


@fault("llama", "rows_of_adapters_inside_a_saved_module_are_their_own")
def layers_in_a_saved_copy_use_the_active_adapter(patch):
    original = shim.modules.adapter_layers
    patch.setattr(shim.modules, "adapter_layers", lambda model, adapters=(): original(model))


@fault("llama", "trainable_tokens_are_the_rows_own")
def trained_tokens_are_taken_for_the_bases(patch):
    original = shim.batch.holds

    def holds(layer, adapter):
        return "token_adapter" not in layer._modules and original(layer, adapter)

    patch.setattr(shim.batch, "holds", holds)


@fault("gpt2", "rows_of_a_model_with_tied_weights_are_their_own")
def a_tied_head_is_always_the_bases(patch):
    from peft.utils import ModulesToSaveWrapper

    original = shim.batch.holds

    def holds(layer, adapter):
        return not isinstance(layer, ModulesToSaveWrapper) and original(layer, adapter)

    patch.setattr(shim.batch, "holds", holds)
