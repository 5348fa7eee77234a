"""Defects in the one-pass route: owners, plans, and how a layer runs its rows."""

import contextlib
from dataclasses import replace

import torch

import shim.kernels.layer
import shim.kernels.lora
import shim.routing.generate_one_pass
import shim.routing.layers
import shim.routing.outputs
import shim.routing.owners
import shim.routing.plans
import shim.routing.recorder
import shim.routing.replay
import shim.routing.trace
import shim.routing.tracer
import shim.selection
from shim.routing.generate_rows import UnitRows
from shim.routing.owners import Lattice
from shim.routing.reads import Reads
from shim.routing.rows import RowRule
from shim.selection import BASE
from tests.faults.planted import ONE_PASS, fault


def owners_changed(patch, change):
    """Let every rule have the owners that `change(owners)` makes of those that were found."""
    original = shim.routing.trace.rule_of

    def rule_of(owners):
        rule = original(owners)
        return rule and RowRule(rule.dim, tuple(change(list(rule.owners))))

    patch.setattr(shim.routing.trace, "rule_of", rule_of)


@fault(ONE_PASS, "integers", "each_row_equals_its_own_run")
def owners_shifted_by_one(patch):
    owners_changed(patch, lambda owners: owners[1:] + owners[:1])


@fault(ONE_PASS, "integers", "each_row_equals_its_own_run")
def owners_reversed(patch):
    owners_changed(patch, lambda owners: owners[::-1])


@fault(ONE_PASS, "integers-folded", "each_row_equals_its_own_run")
def blocks_taken_for_tiles(patch):
    owners_changed(patch, lambda owners: sorted(set(owners)) * (len(owners) // len(set(owners))))


@fault(ONE_PASS, "mobilevit", "each_row_equals_its_own_run")
def tiles_taken_for_blocks(patch):
    owners_changed(patch, lambda owners: [min(o + (i % 7 == 0), max(owners)) for i, o in enumerate(owners)])


@fault(ONE_PASS, "integers-sorted", "reordering_rows_reorders_outputs")
def a_plan_serves_whatever_python_reads(patch):
    patch.setattr(shim.routing.tracer, "read_of", lambda *_: Reads.NOTHING)


@fault(ONE_PASS, "llama", "a_saved_attention_fills_its_cache_once")
def a_cache_is_filled_for_each_adapter(patch):
    patch.setattr(shim.routing.recorder, "check_arguments", lambda *_: None)


@fault(ONE_PASS, "llama", "a_layer_of_its_own_class_that_mixes_samples_is_refused_by_name")
def a_layers_rows_are_believed_of_its_kind(patch):
    patch.setattr(shim.routing.recorder, "check_rows", lambda *_: None)


@fault("bert", "samples_in_another_order_are_refused")
def an_output_without_rows_is_believed_in_any_order(patch):
    patch.setattr(shim.routing.outputs, "_check_places", lambda *_: None)


@fault(ONE_PASS, "xlnet", "each_row_equals_its_own_run")
def the_batch_is_taken_for_dim_0(patch):
    original = shim.routing.trace.rule_of

    def rule_of(owners):
        rule = original(owners)
        if rule is None or rule.dim in (0, None):
            return rule
        return RowRule(0, tuple(index % len(set(rule.owners)) for index in range(owners.shape[0])))

    patch.setattr(shim.routing.trace, "rule_of", rule_of)


@fault(ONE_PASS, "vit", "each_row_equals_its_own_run")
def rows_that_no_sample_owned_go_to_the_first(patch):
    original = Lattice.settle

    def settle(lattice):
        found = original(lattice)
        found.owner[lattice.samples + 1 :] = 1
        return found

    patch.setattr(Lattice, "settle", settle)


@fault(ONE_PASS, "mixtral", "a_row_is_right_after_calls_of_other_sizes")
def a_plan_serves_whatever_comes(patch):
    original = shim.routing.plans.signature_of

    def signature_of(batch, inputs, rows, owners, kind):
        found = original(batch, inputs, rows, owners, kind)
        return shim.routing.plans.Signature("all", "all", found.lengths)

    patch.setattr(shim.routing.plans, "signature_of", signature_of)
    patch.setattr(shim.routing.replay, "fits", lambda call, shape: True)


@fault(ONE_PASS, "bert", "each_row_equals_its_own_run")
def rows_of_the_base_get_the_first_adapter(patch):
    original = shim.routing.layers.RowGroups._rows

    def rows(groups, rule, absent):
        first = next(name for name in groups._adapters if name != BASE)
        found = original(groups, rule, absent)
        return {**found, first: sorted(found.get(first, []) + found.pop(BASE, []))}

    patch.setattr(shim.routing.layers.RowGroups, "_rows", rows)


@fault(ONE_PASS, "bert", "many_adapters_of_any_rank_and_target_are_right")
def one_scaling_for_all_adapters(patch):
    original = shim.kernels.layer.weights_by_rank

    def weights_by_rank(layer, adapters):
        most = max(layer.scaling.values())
        return [
            (slots, replace(weights, scalings=tuple(most for _ in slots)))
            for slots, weights in original(layer, adapters)
        ]

    patch.setattr(shim.kernels.layer, "weights_by_rank", weights_by_rank)


@fault(ONE_PASS, "bert", "other_adapters_weights_do_not_reach_a_row")
def rows_are_masked_rather_than_selected(patch):
    original = shim.kernels.lora.Bank.add

    def add(bank, x, y):
        for down, up in zip(bank.down, bank.up):
            nobody = torch.zeros(len(y), 1, 1).to(y)
            y = y + nobody * (x @ down @ up)
        return original(bank, x, y)

    patch.setattr(shim.kernels.lora.Bank, "add", add)


@fault(ONE_PASS, "bert", "float32_rows_are_as_exact_as_alone")
def products_pass_through_a_lower_precision(patch):
    original = shim.routing.layers.run_linear
    patch.setattr(shim.routing.layers, "run_linear", lambda *call: original(*call).bfloat16().to(call[1].dtype))


@fault(ONE_PASS, "bert", "many_adapters_of_any_rank_and_target_are_right")
def adapters_of_two_ranks_share_their_memory(patch):
    original = shim.kernels.layer._products
    patch.setattr(shim.kernels.layer, "_products", lambda *call: list(original(*call)))


@fault(ONE_PASS, "roberta-sequence-classification", "each_row_uses_its_own_saved_module")
def the_first_adapters_head_for_all_rows(patch):
    def choose(outputs, layer, rule, groups):
        return next(iter(outputs.values()))

    patch.setattr(shim.routing.layers, "_choose", choose)


@fault(ONE_PASS, "integers", "failure_leaves_no_trace")
def a_selection_left_after_a_failing_pass(patch):
    @contextlib.contextmanager
    def select(selection):
        token = shim.selection._CURRENT.set(selection)
        yield
        shim.selection._CURRENT.reset(token)

    patch.setattr(shim.routing.replay, "select", select)
    patch.setattr(shim.routing.trace, "select", select)


@fault(ONE_PASS, "llama", "several_returned_sequences_are_the_rows_own")
def rows_of_beams_are_tiled(patch):
    original = shim.routing.generate_one_pass._units

    def units(*call):
        return {key: UnitRows(tiled(found.rows), found.owners) for key, found in original(*call).items()}

    def tiled(rows):
        samples = sorted(set(rows))
        return tuple(samples * (len(rows) // len(samples)))

    patch.setattr(shim.routing.generate_one_pass, "_units", units)


@fault(ONE_PASS, "t5", "several_returned_sequences_are_the_rows_own")
def the_encoder_is_expanded_too(patch):
    original = shim.routing.generate_one_pass._units

    def units(*call):
        found = original(*call)
        beams = max(count for _, count in found) // min(count for _, count in found)
        return {key: expanded(known, beams) if key[0] == "encoder" else known for key, known in found.items()}

    def expanded(known, beams):
        rows = [row for row in known.rows for _ in range(beams)]
        return UnitRows(tuple(rows[: len(known.rows)]), known.owners)

    patch.setattr(shim.routing.generate_one_pass, "_units", units)


@fault(ONE_PASS, "llama", "greedy_tokens_equal_the_rows_own")
def the_first_token_only_is_the_adapters(patch):
    original = shim.routing.generate_one_pass.Replay.run_layer

    def run_layer(route, layer, forward, args, kwargs):
        if args[0].shape[1] == 1:
            return forward(layer, *args, **kwargs)
        return original(route, layer, forward, args, kwargs)

    patch.setattr(shim.routing.generate_one_pass.Replay, "run_layer", run_layer)
    patch.setattr(shim.routing.generate_one_pass.Replay, "finish", lambda route: None)


@fault(ONE_PASS, "llama", "greedy_tokens_equal_the_rows_own")
def the_prompts_plan_for_one_adapter(patch):
    original = shim.routing.generate_one_pass.Replay.run_layer

    def run_layer(route, layer, forward, args, kwargs):
        if args[0].shape[1] > 1:
            return forward(layer, *args, **kwargs)
        return original(route, layer, forward, args, kwargs)

    patch.setattr(shim.routing.generate_one_pass.Replay, "run_layer", run_layer)
    patch.setattr(shim.routing.generate_one_pass.Replay, "finish", lambda route: None)
