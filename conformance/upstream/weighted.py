"""Upstream's defects where adapters are combined by `add_weighted_adapter`."""

from __future__ import annotations

from typing import Tuple

from conformance.upstream import reach
from conformance.upstream.defect import Defect, Sighting

WEIGHTED: Tuple[Defect, ...] = (
    Defect(
        "combinations_of_rslora",
        "a combination that begins with an rsLoRA adapter is the square root of its rank too large",
        "huggingface/peft#3449, merged after peft 0.21.2",
        {"peft": ">=0.9,<=0.21.2"},
        (
            Sighting(
                ("a_concatenated_adapter_is_the_weighted_sum_of_its_parts",), reach.every, r"from the weighted sum"
            ),
        ),
    ),
    Defect(
        "combinations_by_svd",
        "adapters combined by svd have their scaling applied twice, so that only those scaled by 1 come out right",
        "huggingface/peft#3111, peft 0.21.0",
        {"peft": ">=0.9,<0.21"},
        (
            Sighting(
                ("an_adapter_combined_by_svd_is_the_nearest_to_the_weighted_sum",),
                reach.every,
                r"from the weighted sum",
            ),
        ),
    ),
    Defect(
        "combinations_by_dare",
        "adapters combined by DARE are not scaled up for the elements that were dropped",
        "huggingface/peft#3152, peft 0.19.1",
        {"peft": ">=0.9,<0.19.1"},
        (
            Sighting(
                ("adapters_combined_matrix_by_matrix_are_what_each_way_says",),
                reach.every,
                r"by dare_linear has an element that is no sum of kept and dropped ones",
            ),
        ),
    ),
    Defect(
        "combinations_with_negative_weights",
        "adapters combined matrix by matrix lose the sign of negative weights, refused below 0.18",
        "huggingface/peft#2918, peft 0.19.0",
        {"peft": ">=0.18,<0.19"},
        (Sighting(("a_negative_weight_takes_an_adapter_away",), reach.every, r"from the weighted sum"),),
    ),
)
