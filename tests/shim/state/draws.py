"""What the steps of the state machine draw: adapters, places among what is there, and errors."""

import peft
import torch
from hypothesis import strategies as st

from tests.shim.state.reference import LAYERS, SAVED, Recipe

NAMES = ("ann", "ben", "cat", "dan")  # three letters: below 0.15, PEFT's saving takes "b" out of "bias" too

recipes = st.builds(
    Recipe,
    rank=st.integers(1, 3),
    alpha=st.sampled_from([2, 1, 4]),
    root_scaling=st.booleans(),
    targets=st.sampled_from([LAYERS, LAYERS[:1], LAYERS[1:]]),
    saves=st.sampled_from([(), (), SAVED[1:], SAVED[:1], SAVED]),
    seed=st.integers(0, 99),
)
places = st.integers(0, 11)  # of something that is there when the step is run
batches = st.lists(places, min_size=1, max_size=5)
ERRORS = (RuntimeError, KeyboardInterrupt, torch.cuda.OutOfMemoryError)


def pick(place, values):
    values = list(values)
    return values[place % len(values)]


def config_of(recipe):
    return peft.LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        use_rslora=recipe.root_scaling,
        target_modules=list(recipe.targets),
        modules_to_save=list(recipe.saves) or None,
        init_lora_weights=False,
    )
