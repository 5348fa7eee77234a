"""Defects in the split route: the parts, and how they are put together."""

import contextlib

import torch

import shim.routing.assemble
import shim.routing.generation
import shim.routing.outputs
import shim.routing.packed
import shim.routing.rehearsal
import shim.routing.split
import shim.routing.trace
import shim.selection
from shim.batch import MixedBatch
from shim.selection import BASE
from tests.faults.planted import SPLIT, answering, fault


@fault(SPLIT, "integers", "each_row_equals_its_own_run")
def rows_shifted_by_one(patch):
    original = shim.routing.assemble.in_row_order
    patch.setattr(shim.routing.assemble, "in_row_order", lambda *a: original(*a).roll(1, a[2]))


@fault(SPLIT, "integers", "each_row_equals_its_own_run")
def rows_reversed(patch):
    original = shim.routing.assemble.in_row_order
    patch.setattr(shim.routing.assemble, "in_row_order", lambda *a: original(*a).flip(a[2]))


@fault(SPLIT, "bert", "reordering_rows_reorders_outputs")
def rows_left_in_the_order_of_adapters(patch):
    patch.setattr(shim.routing.assemble, "in_row_order", lambda parts, groups, dim, kind: torch.cat(parts, dim))


@fault(SPLIT, "integers-folded", "each_row_equals_its_own_run")
def the_last_adapter_wins(patch):
    answering(patch, lambda batch, adapter: batch.names[-1])


@fault(SPLIT, "integers", "failure_leaves_no_trace")
def a_selection_left_after_a_failure(patch):
    @contextlib.contextmanager
    def select(selection):
        token = shim.selection._CURRENT.set(selection)
        yield
        shim.selection._CURRENT.reset(token)

    patch.setattr(shim.routing.split, "select", select)


@fault("bert", "samples_in_another_order_are_refused")
def a_split_is_rehearsed_by_the_names_alone(patch):
    patch.setattr(shim.routing.rehearsal, "by_row", lambda batch: batch)
    patch.setattr(shim.routing.rehearsal, "_apart", lambda groups, own: groups)


@fault("vit", "samples_in_another_order_are_refused")
def an_only_input_is_taken_for_packed_in_any_order(patch):
    patch.setattr(shim.routing.packed, "_may_be_packed", lambda batch, inputs, owners: set(inputs.tensors()))
    for module in (shim.routing.trace, shim.routing.outputs):
        patch.setattr(module, "other_order", lambda owner: [])


@fault(SPLIT, "bert", "other_adapters_weights_do_not_reach_a_row")
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


@fault(SPLIT, "bert", "one_sample_under_several_adapters_gives_each_answer")
def parts_of_equal_inputs_are_run_once(patch):
    original = shim.routing.split._run_groups

    def run_groups(run, batch, inputs, owners):
        known = []

        def run_once(part):
            tensors = part.tensors()
            for before, found in known:
                if all(torch.equal(before[path], tensor) for path, tensor in tensors.items()):
                    return found
            known.append((tensors, run(part)))
            return known[-1][1]

        return original(run_once, batch, inputs, owners)

    patch.setattr(shim.routing.split, "_run_groups", run_groups)


@fault(SPLIT, "clip", "outputs_that_mix_samples_are_refused_by_name")
def outputs_that_mix_samples_are_guessed(patch):
    import shim.routing.layout as layout

    original = layout._row_dims
    patch.setattr(layout, "_row_dims", lambda whole, parts: original(whole, parts)[:1])
    patch.setattr(layout, "close", lambda part, rows: True)
    patch.setattr(layout, "_rule_of_rows", lambda path, whole, parts, groups, dim: layout.Rule("rows", dim))
    patch.setattr(shim.routing.assemble, "_check_shapes", lambda path, values, groups, rule: None)
    patch.setattr(shim.routing.assemble, "in_row_order", lambda parts, groups, dim, kind: parts[0])


@fault(SPLIT, "bert", "float32_rows_are_as_exact_as_alone")
def rows_pass_through_a_lower_precision(patch):
    original = shim.routing.assemble.in_row_order

    def in_row_order(parts, groups, dim, kind):
        return original([part.bfloat16().to(part.dtype) for part in parts], groups, dim, kind)

    patch.setattr(shim.routing.assemble, "in_row_order", in_row_order)


@fault(SPLIT, "llama", "several_returned_sequences_are_the_rows_own")
def beams_are_tiled_for_interleaved(patch):
    original = shim.routing.generation.in_row_order
    patch.setattr(
        shim.routing.generation,
        "in_row_order",
        lambda parts, groups, dim: original(parts, groups, dim, "tiles"),
    )


@fault(SPLIT, "bert", "base_rows_equal_the_base_model")
def base_rows_get_an_adapter(patch):
    answering(
        patch,
        lambda batch, adapter: next(n for n in batch.names if n != BASE) if adapter == BASE else adapter,
    )


@fault(SPLIT, "bert", "rows_without_a_saved_module_use_the_base_one")
def a_missing_head_is_taken_from_the_first_adapter(patch):
    original = MixedBatch.selection

    def selection(batch, adapter):
        found, first = original(batch, adapter), original(batch, batch.groups[0].adapter)
        return first if adapter != BASE and not all(found.holds.values()) else found

    patch.setattr(MixedBatch, "selection", selection)


@fault(SPLIT, "llama", "sampled_tokens_are_the_rows_own_whatever_the_others_are")
def a_sub_batch_draws_from_the_first_generators(patch):
    original = shim.routing.generation.generating
    patch.setattr(shim.routing.generation, "generating", lambda rows: original(range(len(rows))))
