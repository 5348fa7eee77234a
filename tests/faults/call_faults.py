"""Defects in what every mixed call goes through, whatever its route."""

import contextvars

import torch

import shim.batch
import shim.call
import shim.held
import shim.selection
from shim.batch import MixedBatch
from shim.errors import UnknownAdapterError
from shim.modules import adapter_layers
from shim.selection import BASE, Selection
from tests.faults.planted import fault

COUNT = contextvars.ContextVar("samples", default=2)


@fault("bert", "many_adapters_of_any_rank_and_target_are_right")
def the_scaling_of_another_adapter(patch):
    from peft.tuners.lora import Linear

    original = Linear.forward

    def forward(layer, *args, **kwargs):
        before = dict(layer.scaling)
        layer.scaling.update({name: max(before.values()) for name in before})
        try:
            return original(layer, *args, **kwargs)
        finally:
            layer.scaling.update(before)

    patch.setattr(Linear, "forward", forward)


@fault("roberta-sequence-classification", "each_row_uses_its_own_saved_module")
def the_active_adapters_head_for_all_rows(patch):
    from peft.tuners.tuners_utils import BaseTunerLayer

    original = MixedBatch.selection

    def selection(batch, adapter):
        found = original(batch, adapter)
        tuners = {id(layer) for _, layer in batch.layers if isinstance(layer, BaseTunerLayer)}
        return Selection(found.model, found.adapter, {k: v for k, v in found.holds.items() if k in tuners})

    patch.setattr(MixedBatch, "selection", selection)


def ignore_the_names(patch, call, where):
    """Let `call` of `shim.call` hand what it is asked to upstream, without the names, where `where(run, model)`."""
    original = getattr(shim.call, call)

    def ignoring(method, run, model, args, kwargs, names):
        if where(run, model):
            return method(model, *args, **kwargs)
        return original(method, run, model, args, kwargs, names)

    patch.setattr(shim.call, call, ignoring)


def everywhere(run, model):
    return True


def in_generate(run, model):
    return run is shim.call.run_generate


def while_disabled(run, model):
    return any(layer._disable_adapters for _, layer in adapter_layers(model))


@fault("swin", "each_row_equals_its_own_run")
def the_names_are_silently_ignored(patch):
    ignore_the_names(patch, "_call", everywhere)


@fault("bert", "no_tuner_ignores_the_names")
def names_are_ignored_by_tuners_other_than_lora(patch):
    from peft.tuners.lora import LoraLayer

    def without_lora(run, model):
        return not any(isinstance(module, LoraLayer) for module in model.modules())

    ignore_the_names(patch, "_call", without_lora)


@fault("llama", "every_layers_states_are_the_rows_own")
def layers_are_hooked_for_their_states_twice(patch):
    kept = shim.held._NOT_KEPT - {"_output_capturing_hooks_installed"}
    patch.setattr(shim.held, "_NOT_KEPT", kept)


@fault("bert", "failure_leaves_no_trace")
def hooks_left_behind(patch):
    original = shim.call._call

    def call(method, run, model, args, kwargs, names):
        handle = model.register_forward_pre_hook(lambda module, args: None)
        result = original(method, run, model, args, kwargs, names)
        handle.remove()
        return result

    patch.setattr(shim.call, "_call", call)


@fault("bert", "a_refused_call_leaves_no_trace")
def training_mode_left_after_a_refusal(patch):
    original = shim.call._call

    def call(method, run, model, args, kwargs, names):
        model.base_model.train()
        result = original(method, run, model, args, kwargs, names)
        model.base_model.eval()
        return result

    patch.setattr(shim.call, "_call", call)


@fault("bert", "success_leaves_no_trace")
def the_random_generator_is_used_up(patch):
    original = shim.call._call

    def call(*args):
        torch.rand(1)
        return original(*args)

    patch.setattr(shim.call, "_call", call)


@fault("bert", "success_leaves_no_trace")
def the_callers_names_are_changed(patch):
    original = shim.call.resolve

    def resolve(model, names):
        batch = original(model, names)
        names.reverse()
        return batch

    patch.setattr(shim.call, "resolve", resolve)


@fault("bert", "a_deleted_name_is_refused")
def a_deleted_adapter_is_not_looked_for_again(patch):
    believe_a_batch_as_it_was_checked_first(patch)


@fault("bert", "merged_adapters_are_refused")
def a_merged_adapter_is_not_looked_for_again(patch):
    believe_a_batch_as_it_was_checked_first(patch)


@fault("bert", "threads_do_not_affect_each_other")
def one_selection_for_all_threads(patch):
    class Shared:
        value = None

        def get(self):
            return self.value

        def set(self, value):
            before, self.value = self.value, value
            return before

        def reset(self, before):
            self.value = before

    patch.setattr(shim.selection, "_CURRENT", Shared())


@fault("bert", "a_wrong_number_of_names_is_refused_with_both_numbers")
def a_wrong_number_of_names_is_padded(patch):
    original = shim.call.resolve

    def resolve(model, names):
        return original(model, (list(names) + [names[-1]] * 8)[: COUNT.get()])

    patch.setattr(shim.call, "resolve", resolve)
    inputs = shim.call.Inputs.of

    def of(args, kwargs, signature):
        COUNT.set(len(kwargs["input_ids"]))
        return inputs(args, kwargs, signature)

    patch.setattr(shim.call.Inputs, "of", of)


@fault("bert", "an_unknown_name_is_refused")
def an_unknown_name_becomes_the_base(patch):
    original = shim.call.resolve

    def resolve(model, names):
        return original(model, [name if name in model.peft_config else BASE for name in names])

    patch.setattr(shim.call, "resolve", resolve)


@fault("bert", "an_unknown_name_is_told_those_loaded")
def an_unknown_name_is_told_of_itself_only(patch):
    def check_loaded(model, names):
        unknown = sorted(set(names) - set(model.peft_config) - {BASE})
        if unknown:
            raise UnknownAdapterError(f"adapter_names has non-existing adapter(s) {unknown}: load them first")

    patch.setattr(shim.batch, "_check_loaded", check_loaded)


def believe_a_batch_as_it_was_checked_first(patch):
    original, known = shim.call.resolve, {}

    def resolve(model, names):
        key = (model, tuple(names))
        if key not in known:
            known[key] = original(model, names)
        return known[key]

    patch.setattr(shim.call, "resolve", resolve)


@fault("bert", "a_batch_of_one_or_under_one_adapter_is_right")
def one_name_runs_what_is_active(patch):
    patch.setattr(shim.call, "run_one_adapter", lambda function, batch, inputs, owners: inputs.call(function))


@fault("bert", "a_deleted_name_is_refused")
def rows_of_a_deleted_adapter_become_the_bases(patch):
    from peft import PeftModel

    delete, original, deleted = PeftModel.delete_adapter, shim.call.resolve, set()

    def delete_adapter(model, name):
        delete(model, name)
        deleted.add(name)

    patch.setattr(PeftModel, "delete_adapter", delete_adapter)
    patch.setattr(
        shim.call, "resolve", lambda model, names: original(model, [BASE if n in deleted else n for n in names])
    )


@fault("bert", "the_names_are_used_whatever_is_active")
def names_are_ignored_while_the_adapters_are_disabled(patch):
    ignore_the_names(patch, "_call", while_disabled)


@fault("bert", "a_batch_of_one_or_under_one_adapter_is_right")
def rows_of_one_adapter_are_run_without_a_route(patch):
    def run_one_adapter(function, batch, inputs, owners):
        with shim.selection.select(batch.selection(BASE)):
            return inputs.call(function)

    patch.setattr(shim.call, "run_one_adapter", run_one_adapter)


@fault("bert", "a_row_is_right_after_calls_of_other_sizes")
def the_names_of_the_call_before(patch):
    original, before = shim.call.resolve, {}

    def resolve(model, names):
        names = before.setdefault(len(names), names)
        return original(model, names)

    patch.setattr(shim.call, "resolve", resolve)


@fault("bert", "merged_adapters_are_refused")
def merged_adapters_are_accepted(patch):
    patch.setattr(shim.batch, "_check_state", lambda model, names, layers: None)


@fault("llama", "sampled_tokens_are_the_rows_own_whatever_the_others_are")
def generators_of_other_rows(patch):
    original = shim.call.check_generators
    patch.setattr(shim.call, "check_generators", lambda *given: original(*given)[::-1])


@fault("llama", "greedy_tokens_equal_the_rows_own")
def generate_uses_the_active_adapter(patch):
    ignore_the_names(patch, "_call", in_generate)


@fault("llama", "a_models_own_adapters_give_each_row_its_own_run")
def names_are_ignored_by_a_models_own_adapters(patch):
    ignore_the_names(patch, "_own", everywhere)


@fault("gpt2", "a_models_own_adapters_generate_each_rows_own_tokens")
def a_models_own_generate_uses_the_active_adapter(patch):
    ignore_the_names(patch, "_own", in_generate)


@fault("bert", "a_model_without_adapters_refuses_names")
def names_are_ignored_where_there_are_no_adapters(patch):
    ignore_the_names(patch, "_own", lambda run, model: not shim.call.has_adapters(model))


@fault("bert", "a_models_own_adapters_stay_right_after_switching_and_deleting")
def saved_modules_stay_with_the_adapter_before(patch):
    import shim.patches.models_own_switching as switching

    def activate(model, names):
        for layer in switching._layers(model)[0]:
            layer.set_adapter(names)

    patch.setattr(switching, "_activate", activate)


@fault("bert-sequence-classification", "a_pipeline_gives_each_text_its_own_adapter")
def a_pipelines_batches_all_get_the_first_names(patch):
    import shim.pipelines

    original = shim.pipelines._Naming
    first = []

    def naming(model, names):
        first.append(names)
        return original(model, [first[0][row % len(first[0])] for row in range(len(names))])

    patch.setattr(shim.pipelines, "_Naming", naming)
