"""Defects in a layer: what it leaves out of its rows' products, puts in, or remembers of another call."""

import copy

import torch

import shim.kernels.layer
import shim.kernels.lora
import shim.packing
import shim.routing.layers
from shim.modules import adapter_layers
from tests.faults.planted import ONE_PASS, fault


def products_changed(patch, change):
    """Let each adapter's rows be `change(x)` where they are multiplied."""
    for product in (shim.kernels.lora.Bank, shim.kernels.lora.Segments):
        patch.setattr(product, "add", lambda self, x, y, original=product.add: original(self, change(x), y))


@fault(ONE_PASS, "bert", "each_row_equals_its_own_run")
def the_bias_is_forgotten(patch):
    original = shim.routing.layers.run_linear

    def run_linear(layer, *call):
        bias = layer.get_base_layer().bias
        return original(layer, *call) - (0 if bias is None else bias)

    patch.setattr(shim.routing.layers, "run_linear", run_linear)


@fault(ONE_PASS, "bert", "each_row_equals_its_own_run")
def dropout_is_left_on(patch):
    products_changed(patch, lambda x: torch.nn.functional.dropout(x, 0.05))


@fault(ONE_PASS, "llama", "each_row_equals_its_own_run")
def the_last_tokens_product_is_left_out(patch):
    products_changed(patch, lambda x: torch.cat([x[:, :-1], torch.zeros_like(x[:, -1:])], 1))


@fault(ONE_PASS, "llama", "each_row_equals_its_own_run")
def the_first_token_only_is_multiplied(patch):
    products_changed(patch, lambda x: torch.cat([x[:, :1], torch.zeros_like(x[:, 1:])], 1))


@fault(ONE_PASS, "bert", "a_row_is_right_after_its_adapters_weights_changed")
def a_bank_outlives_its_weights(patch):
    original, banks = shim.kernels.layer.weights_by_rank, {}

    def weights_by_rank(layer, adapters):
        key = (id(layer), tuple(adapters), layer.training)
        if key not in banks:
            banks[key] = (layer, copy.deepcopy(original(layer, adapters)))
        return banks[key][1]

    patch.setattr(shim.kernels.layer, "weights_by_rank", weights_by_rank)


@fault(ONE_PASS, "bert", "packing_moves_weights_and_changes_no_row")
def a_packed_parameter_gets_its_neighbours_values(patch):
    original = shim.packing.pack

    def pack(model):
        pairs = [
            tensors[:2] for name, layer in adapter_layers(model) for _, tensors in shim.packing._groups(name, layer)
        ]
        moved = original(model)
        for first, second in pairs if moved else ():
            value = first.data.clone()
            first.data.copy_(second.data)
            second.data.copy_(value)
        return moved

    patch.setattr(shim.packing, "pack", pack)


@fault(ONE_PASS, "bert", "packing_moves_weights_and_changes_no_row")
def weights_are_taken_to_lie_in_the_order_of_the_batch(patch):
    original = shim.kernels.lora.side_by_side

    def side_by_side(tensors):
        found = original(sorted(tensors, key=torch.Tensor.data_ptr, reverse=True)[::-1])
        return found if found is None else found.flip(0)

    patch.setattr(shim.kernels.lora, "side_by_side", side_by_side)


@fault(ONE_PASS, "bert", "one_sample_under_several_adapters_gives_each_answer")
def equal_rows_share_a_product(patch):
    def first_of_equals(y, x):
        rows = x.flatten(1)
        return y[(rows[:, None] == rows).all(-1).int().argmax(1)]

    original = shim.routing.layers.run_linear
    patch.setattr(
        shim.routing.layers, "run_linear", lambda layer, x, *call: first_of_equals(original(layer, x, *call), x)
    )


@fault(ONE_PASS, "bert", "bfloat16_rows_are_as_exact_as_alone")
def half_precision_passes_through_a_quarter(patch):
    original = shim.routing.layers.run_linear

    def run_linear(*call):
        y = original(*call)
        return y.to(torch.float8_e5m2).to(y.dtype) if y.dtype is torch.bfloat16 else y

    patch.setattr(shim.routing.layers, "run_linear", run_linear)


@fault("llama", "the_base_and_the_adapters_term_add_up")
def a_layers_own_forward_leaves_out_the_scaling(patch):
    from peft.tuners.lora import Linear

    original = Linear.forward

    def forward(layer, *args, **kwargs):
        scaling = layer.scaling
        layer.scaling = dict.fromkeys(scaling, 1.0)
        try:
            return original(layer, *args, **kwargs)
        finally:
            layer.scaling = scaling

    patch.setattr(Linear, "forward", forward)
