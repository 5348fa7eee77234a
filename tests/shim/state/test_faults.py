"""The machine sees: each planted fault is found within the budget of the test that passes without it."""

import contextvars
import copy

import peft
import pytest
import torch
from hypothesis import Phase
from peft.tuners.lora import Linear

import shim.batch
import shim.call
import shim.kernels.layer
import shim.no_trace
import shim.patches.saved_modules_delete
import shim.routing.plans
from shim.batch import MixedBatch
from shim.modules import adapter_layers
from shim.routing.replay import PlanChanged, Replay
from shim.selection import BASE, select
from tests.faults.call_faults import (
    an_unknown_name_becomes_the_base,
    hooks_left_behind,
    merged_adapters_are_accepted,
    the_active_adapters_head_for_all_rows,
    the_random_generator_is_used_up,
)
from tests.faults.layer_faults import a_bank_outlives_its_weights
from tests.shim.state.machine import StateMachine
from tests.shim.state.test_machine import run


def the_calls_adapter_stays_active_after_a_failure(patch):
    original = shim.call._call

    def call(method, run, model, args, kwargs, names):
        try:
            return original(method, run, model, args, kwargs, names)
        except RuntimeError:
            for _, layer in adapter_layers(model):
                layer._active_adapter = [name for name in names if name != BASE][:1] or layer._active_adapter
            raise

    patch.setattr(shim.call, "_call", call)


def deleting_leaves_a_saved_module(patch):
    original = shim.patches.saved_modules_delete.delete_saved_modules

    def delete_saved_modules(model, name):
        original(model, name)
        for _, layer in adapter_layers(model):
            if hasattr(layer, "modules_to_save"):
                layer.modules_to_save[name] = copy.deepcopy(layer.original_module)

    patch.setattr(shim.patches.saved_modules_delete, "delete_saved_modules", delete_saved_modules)


def weights_are_merged_twice(patch):
    original = Linear.merge

    def merge(layer, *args, **kwargs):
        before = set(layer.merged_adapters)
        original(layer, *args, **kwargs)
        for name in set(layer.merged_adapters) - before:
            layer.get_base_layer().weight.data += layer.get_delta_weight(name)

    patch.setattr(Linear, "merge", merge)


def layers_outlive_a_changed_model(patch):
    original, known = shim.batch.layers_in_evaluation, {}

    def layers_in_evaluation(model, adapters):
        found = original(model, adapters)
        return found if found is None else known.setdefault(id(model), (model, found))[1]

    patch.setattr(shim.batch, "layers_in_evaluation", layers_in_evaluation)


def a_plan_outlives_a_changed_model(patch):
    original = Replay.run_layer

    def run_layer(route, layer, forward, args, kwargs):
        try:
            return original(route, layer, forward, args, kwargs)
        except PlanChanged:
            with select(route._groups.selection(BASE)):
                return forward(layer, *args, **kwargs)

    patch.setattr(shim.routing.plans, "_state_of", lambda batch: None)
    patch.setattr(Replay, "run_layer", run_layer)
    patch.setattr(Replay, "finish", lambda route: None)


def an_adapter_without_weights_in_a_layer_gets_the_active_one(patch):
    original = MixedBatch.selection

    def selection(batch, adapter):
        found = original(batch, adapter)
        held = {key: value for key, value in found.holds.items() if value or adapter == BASE}
        return type(found)(found.model, found.adapter, held, found.route, found.trains)

    patch.setattr(MixedBatch, "selection", selection)


def the_generator_of_a_failed_call_stays_where_it_was(patch):
    original = shim.no_trace.remember

    def remember(model, adapters=None):
        restore = original(model, adapters)
        return lambda: (restore(), torch.rand(1))

    patch.setattr(shim.no_trace, "remember", remember)


def gradients_reach_the_first_adapter_only(patch):
    original = shim.kernels.layer.weights_by_rank

    def detached(weights, first):
        downs = tuple(w if first and i == 0 else w.detach() for i, w in enumerate(weights.downs))
        return type(weights)(downs, weights.ups, weights.scalings)

    def weights_by_rank(layer, adapters):
        found = original(layer, adapters)
        return found and [(slots, detached(weights, 0 in slots)) for slots, weights in found]

    patch.setattr(shim.kernels.layer, "weights_by_rank", weights_by_rank)


def a_copy_shares_its_adapters(patch):
    def deepcopy(model, memo):
        memo.update({id(parameter): parameter for parameter in model.parameters()})
        return copy._reconstruct(model, memo, *model.__reduce_ex__(4))

    patch.setattr(peft.PeftModel, "__deepcopy__", deepcopy, raising=False)


FAULTS = [
    a_bank_outlives_its_weights,
    a_copy_shares_its_adapters,
    a_plan_outlives_a_changed_model,
    an_adapter_without_weights_in_a_layer_gets_the_active_one,
    an_unknown_name_becomes_the_base,
    deleting_leaves_a_saved_module,
    gradients_reach_the_first_adapter_only,
    hooks_left_behind,
    layers_outlive_a_changed_model,
    merged_adapters_are_accepted,
    the_active_adapters_head_for_all_rows,
    the_calls_adapter_stays_active_after_a_failure,
    the_generator_of_a_failed_call_stays_where_it_was,
    the_random_generator_is_used_up,
    weights_are_merged_twice,
]


@pytest.mark.parametrize("plant", FAULTS, ids=lambda plant: plant.__name__)
def test_the_machine_finds(plant, monkeypatch, installed_shim):
    plant(monkeypatch)
    phases = (Phase.generate,)
    with pytest.raises(AssertionError) as found:
        contextvars.copy_context().run(run, StateMachine, phases=phases)
    print(plant.__name__, str(found.value)[:150])
