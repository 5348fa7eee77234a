"""Defects in how adapters are combined, and in how a combination is served."""

from peft.tuners.lora import LoraLayer, LoraModel

from tests.faults.planted import SPLIT, answering, fault


def combined_by(patch, method, change):
    """Let `method` of PEFT combine with the weights that `change(weights, adapters, target)` makes."""
    original = getattr(LoraModel, method)

    def combine(self, way, adapters, weights, *args, **kwargs):
        target = next(one for one in (*args, *kwargs.values()) if hasattr(one, "scaling"))
        return original(self, way, adapters, change(weights, adapters, target), *args, **kwargs)

    patch.setattr(LoraModel, method, combine)


@fault("llama", "a_concatenated_adapter_is_the_weighted_sum_of_its_parts")
def a_combination_is_scaled_by_its_rank(patch):
    original = LoraModel.add_weighted_adapter

    def add_weighted_adapter(self, adapters, weights, name, *args, **kwargs):
        original(self, adapters, weights, name, *args, **kwargs)
        for layer in self.model.modules():
            if isinstance(layer, LoraLayer) and name in layer.scaling:
                layer.scaling[name] *= layer.r[name] ** 0.5

    patch.setattr(LoraModel, "add_weighted_adapter", add_weighted_adapter)


@fault("llama", "an_adapter_combined_by_svd_is_the_nearest_to_the_weighted_sum")
def scalings_are_applied_twice(patch):
    def twice(weights, adapters, target):
        return [weight * 3 * target.scaling[adapter] for weight, adapter in zip(weights, adapters)]

    combined_by(patch, "_svd_generalized_task_arithmetic_weighted_adapter", twice)


@fault("llama", "adapters_combined_matrix_by_matrix_are_what_each_way_says")
def the_last_part_weighs_nothing(patch):
    combined_by(
        patch, "_generalized_task_arithmetic_weighted_adapter", lambda weights, *_: [*weights[:-1], weights[-1] * 1e-9]
    )


@fault("llama", "a_negative_weight_takes_an_adapter_away")
def signs_of_weights_are_lost(patch):
    combined_by(
        patch, "_generalized_task_arithmetic_weighted_adapter", lambda weights, *_: [abs(weight) for weight in weights]
    )


@fault(SPLIT, "llama", "a_combined_adapter_has_rows_of_its_own")
def a_combined_adapter_is_taken_for_its_first_part(patch):
    answering(patch, lambda _, adapter: "ann" if adapter == "sum" else adapter)
