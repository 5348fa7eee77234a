"""Defects in how PEFT's multi-head attention is run: on the layer itself, or on other rows than its own."""

from peft.tuners.lora import layer as lora_layers

import shim.kernels.attention
import shim.routing.attention
from tests.faults.planted import ANY, ONE_PASS, fault

COPIES = "tests/shim/kernels/test_attention.py::"
ROWS = "tests/shim/routing/test_attention.py::"


def attention_fault(route, test):
    """Register a fault that a test of the shim's owns, where the installed PEFT has the layer at all."""
    return fault(route, "", test) if hasattr(lora_layers, "MultiheadAttention") else lambda plant: plant


@attention_fault(ANY, COPIES + "test_a_call_writes_nothing_on_the_layer")
def an_attention_merges_where_it_is(patch):
    patch.setattr(shim.kernels.attention, "_copy_of", lambda layer: layer)


@attention_fault(ANY, COPIES + "test_a_bias_that_peft_adds_to_in_place_stays")
def a_copied_attention_shares_its_biases(patch):
    original = shim.kernels.attention._copied

    def copied(module, adapter):
        copy = original(module, adapter)
        copy._parameters.update({name: held for name, held in module._parameters.items() if name == "bias"})
        return copy

    patch.setattr(shim.kernels.attention, "_copied", copied)


@attention_fault(ANY, COPIES + "test_an_encoder_that_goes_past_its_adapters_is_refused")
def an_encoders_fast_path_is_forgotten(patch):
    patch.setattr(shim.kernels.attention, "_is_gone_past", lambda around, layer: False)


@attention_fault(ONE_PASS, ROWS + "test_every_row_is_its_own_in_one_pass")
def a_mask_by_head_is_taken_by_its_first_rows(patch):
    original = shim.routing.attention._rows_of

    def rows_of(tensor, dim, rows, size):
        return original(tensor, dim, rows if tensor.shape[dim] == size else rows - rows[0], size)

    patch.setattr(shim.routing.attention, "_rows_of", rows_of)
