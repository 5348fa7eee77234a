"""Defects in training mode: whose gradient, whose dropout, and what a checkpoint remembers."""

import contextlib
from dataclasses import replace

import shim.batch
import shim.kernels.layer
import shim.recompute
import shim.routing.layers
import shim.routing.replay
import shim.routing.split
import shim.routing.trace
from shim.routing.tree import map_leaves
from tests.faults.planted import ONE_PASS, SPLIT, fault

GRADIENTS = "each_adapter_gets_the_gradient_of_its_own_rows"


def run_linear_changed(patch, change):
    """Let every layer's output be what `change(y, layer)` makes of it."""
    original = shim.routing.layers.run_linear
    patch.setattr(shim.routing.layers, "run_linear", lambda layer, *call: change(original(layer, *call), layer))


@fault(ONE_PASS, "bert", GRADIENTS)
def the_copied_weights_are_detached(patch):
    original = shim.kernels.layer.weights_by_rank

    def weights_by_rank(layer, adapters):
        return [
            (slots, replace(weights, ups=tuple(up.detach() for up in weights.ups)))
            for slots, weights in original(layer, adapters)
        ]

    patch.setattr(shim.kernels.layer, "weights_by_rank", weights_by_rank)


@fault(ONE_PASS, "swin", GRADIENTS)
def the_gradient_of_the_row_beside(patch):
    def change(y, layer):
        if y.requires_grad:
            y.register_hook(lambda gradient: gradient.roll(1, 0))
        return y

    run_linear_changed(patch, change)


@fault(ONE_PASS, "bert", GRADIENTS)
def adapters_of_no_row_get_zeros(patch):
    run_linear_changed(patch, lambda y, layer: y + 0 * sum(a.weight.sum() for a in layer.lora_A.values()))


@fault(SPLIT, "bert", GRADIENTS)
def the_first_part_is_detached(patch):
    original = shim.routing.split._run_groups

    def run_groups(*call):
        first, *rest = original(*call)
        return [map_leaves(lambda _, leaf: leaf.detach() if hasattr(leaf, "detach") else leaf, first), *rest]

    patch.setattr(shim.routing.split, "_run_groups", run_groups)


@fault(ONE_PASS, "bert", "each_row_is_dropped_by_its_own_adapter")
def the_dropout_of_adapters_is_left_out(patch):
    patch.setattr(shim.kernels.layer, "_dropout_of_all", lambda layer, adapters: 0.0)
    patch.setattr(shim.kernels.weights, "has_plain_dropout", lambda layer, adapters: True)


@fault("bert", "a_checkpoint_without_reentry_keeps_the_names")
def a_checkpoint_forgets_the_names(patch):
    patch.setattr(shim.recompute, "remembering", lambda function: function)


@fault(ONE_PASS, "bert", "a_reentrant_checkpoint_keeps_the_names")
def a_checkpoint_begins_at_the_first_layer(patch):
    def again(route):
        return lambda: shim.routing.replay.Replay(route._plan, route._batch, route._groups, 0)

    patch.setattr(shim.routing.replay.Replay, "again", again)


@fault(ONE_PASS, "bert", "a_training_step_changes_what_one_forward_changes")
def a_trace_draws_for_itself(patch):
    patch.setattr(shim.routing.trace, "nothing_changed", lambda model: contextlib.nullcontext())


@fault("mobilevit", "batch_statistics_are_refused_by_name")
def batch_statistics_are_accepted(patch):
    patch.setattr(shim.batch, "_check_statistics", lambda modules: None)
