"""Planted defects, each caught by the check that owns it: a suite that sees nothing proves nothing.

A fault is planted in the installed shim, one at a time; the check must fail with it, and pass without it.
"""

import contextlib
import contextvars

import pytest
import torch

import shim.call
import shim.routing.assemble
import shim.routing.generation
import shim.routing.split
import shim.selection
from conformance.checks import CHECKS
from conformance.examination import examine
from conformance.models import MODELS
from conformance.settings import Settings
from conformance.shim_switch import shim_installed
from conformance.verdict import Outcome
from shim.batch import MixedBatch
from shim.selection import BASE, Selection

FAULTS = {}


def fault(model, check):
    """Register a function that plants a defect, the model it is shown on, and the check that must see it."""

    def register(plant):
        FAULTS[plant.__name__] = (plant, model, check)
        return plant

    return register


def answering(patch, change):
    """Let every selection be what `change(batch, adapter)` says instead of the adapter asked for."""
    original = MixedBatch.selection
    patch.setattr(MixedBatch, "selection", lambda batch, adapter: original(batch, change(batch, adapter)))


@fault("integers", "each_row_equals_its_own_run")
def rows_shifted_by_one(patch):
    original = shim.routing.assemble.in_row_order
    patch.setattr(shim.routing.assemble, "in_row_order", lambda *a: original(*a).roll(1, a[2]))


@fault("bert", "reordering_rows_reorders_outputs")
def rows_left_in_the_order_of_adapters(patch):
    patch.setattr(shim.routing.assemble, "in_row_order", lambda parts, groups, dim, kind: torch.cat(parts, dim))


@fault("integers-folded", "each_row_equals_its_own_run")
def the_last_adapter_wins(patch):
    answering(patch, lambda batch, adapter: batch.names[-1])


@fault("bert", "base_rows_equal_the_base_model")
def base_rows_get_an_adapter(patch):
    answering(
        patch,
        lambda batch, adapter: next(n for n in batch.names if n != BASE) if adapter == BASE else adapter,
    )


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


@fault("bert", "rows_without_a_saved_module_use_the_base_one")
def a_missing_head_is_taken_from_the_first_adapter(patch):
    original = MixedBatch.selection

    def selection(batch, adapter):
        found, first = original(batch, adapter), original(batch, batch.groups[0].adapter)
        return first if adapter != BASE and not all(found.holds.values()) else found

    patch.setattr(MixedBatch, "selection", selection)


@fault("swin", "each_row_equals_its_own_run")
def the_names_are_silently_ignored(patch):
    def call(original, split, model, args, kwargs, names):
        return original(model, *args, **kwargs)

    patch.setattr(shim.call, "_call", call)


@fault("bert", "no_tuner_ignores_the_names")
def names_are_ignored_by_tuners_other_than_lora(patch):
    from peft.tuners.lora import LoraLayer

    original = shim.call._call

    def call(method, split, model, args, kwargs, names):
        if not any(isinstance(module, LoraLayer) for module in model.modules()):
            return method(model, *args, **kwargs)
        return original(method, split, model, args, kwargs, names)

    patch.setattr(shim.call, "_call", call)


@fault("bert", "failure_leaves_no_trace")
def hooks_left_behind(patch):
    original = shim.call._call

    def call(method, split, model, args, kwargs, names):
        handle = model.register_forward_pre_hook(lambda module, args: None)
        result = original(method, split, model, args, kwargs, names)
        handle.remove()
        return result

    patch.setattr(shim.call, "_call", call)


@fault("integers", "failure_leaves_no_trace")
def a_selection_left_after_a_failure(patch):
    @contextlib.contextmanager
    def select(selection):
        token = shim.selection._CURRENT.set(selection)
        yield
        shim.selection._CURRENT.reset(token)

    patch.setattr(shim.routing.split, "select", select)


@fault("bert", "a_refused_call_leaves_no_trace")
def training_mode_left_after_a_refusal(patch):
    original = shim.call._call

    def call(method, split, model, args, kwargs, names):
        model.base_model.train()
        result = original(method, split, model, args, kwargs, names)
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


@fault("bert", "other_adapters_weights_do_not_reach_a_row")
def another_adapters_output_is_masked_with_zeros(patch):
    original = shim.routing.split._run_groups

    def run_groups(run, batch, inputs, plan):
        parts = original(run, batch, inputs, plan)
        other = parts[-1]["output"].last_hidden_state
        for part in parts:
            part["output"].last_hidden_state = part["output"].last_hidden_state + 0 * other.sum()
            part["output"]["last_hidden_state"] = part["output"].last_hidden_state
        return parts

    patch.setattr(shim.routing.split, "_run_groups", run_groups)


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


COUNT = contextvars.ContextVar("samples", default=2)


@fault("bert", "an_unknown_name_is_refused")
def an_unknown_name_becomes_the_base(patch):
    original = shim.call.resolve

    def resolve(model, names):
        return original(model, [name if name in model.peft_config else BASE for name in names])

    patch.setattr(shim.call, "resolve", resolve)


@fault("bert", "merged_adapters_are_refused")
def merged_adapters_are_accepted(patch):
    patch.setattr(shim.batch, "_check_state", lambda model, names, layers: None)


@fault("clip", "outputs_that_mix_samples_are_refused_by_name")
def outputs_that_mix_samples_are_guessed(patch):
    import shim.routing.layout as layout

    original = layout._row_dims
    patch.setattr(layout, "_row_dims", lambda whole, parts: original(whole, parts)[:1])
    patch.setattr(layout, "close", lambda part, rows: True)
    patch.setattr(layout, "_rule_of_rows", lambda path, whole, parts, groups, dim: layout.Rule("rows", dim))
    patch.setattr(shim.routing.assemble, "_check_shapes", lambda path, values, groups, rule: None)
    patch.setattr(shim.routing.assemble, "in_row_order", lambda parts, groups, dim, kind: parts[0])


@fault("bert", "float32_rows_are_as_exact_as_alone")
def rows_pass_through_a_lower_precision(patch):
    original = shim.routing.assemble.in_row_order

    def in_row_order(parts, groups, dim, kind):
        return original([part.bfloat16().to(part.dtype) for part in parts], groups, dim, kind)

    patch.setattr(shim.routing.assemble, "in_row_order", in_row_order)


@fault("llama", "several_returned_sequences_are_the_rows_own")
def beams_are_tiled_for_interleaved(patch):
    original = shim.routing.generation.in_row_order
    patch.setattr(
        shim.routing.generation,
        "in_row_order",
        lambda parts, groups, dim: original(parts, groups, dim, "tiles"),
    )


@fault("llama", "greedy_tokens_equal_the_rows_own")
def generate_uses_the_active_adapter(patch):
    def generate(function, batch, inputs):
        return inputs.call(function)

    patch.setattr(shim.call, "run_split_generate", generate)
    original = shim.call._call

    def call(method, split, model, args, kwargs, names):
        if method.__name__ == "generate":
            return method(model, *args, **kwargs)
        return original(method, split, model, args, kwargs, names)

    patch.setattr(shim.call, "_call", call)


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_each_planted_fault_is_caught_by_the_check_that_owns_it(name, monkeypatch):
    plant, model, check = FAULTS[name]
    settings = Settings(examples=3)
    with shim_installed(True):
        clean = examine(MODELS[model], CHECKS[check], settings)
        assert clean.outcome is Outcome.PASS, clean.detail
        with monkeypatch.context() as patch:
            plant(patch)
            verdict = examine(MODELS[model], CHECKS[check], settings)
    assert verdict.outcome is Outcome.FAIL, f"{name} went unseen: {verdict}"
    assert "reproduce(" in verdict.reproduction
    print(f"{name}: caught by {check} on {model}: {verdict.detail[:160]}")
