"""Inputs that are one for the whole batch, though they are as long as it."""

import pytest
import torch

import shim
from shim.routing.inputs import Inputs, take

NAMES = ["ann", "__base__", "ben"]
X = torch.randn(3, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def positions(toy, x, logits_to_keep):
    return toy.other(torch.tanh(toy.linear(x)))[:, logits_to_keep]


@pytest.mark.parametrize("kept", [[0, 2, 4], [4, 4, 1], [3]])
@pytest.mark.parametrize("way", ["one pass", "split"])
def test_positions_to_keep_are_every_samples(adapted, alone, kept, way, request):
    if way == "split":
        request.getfixturevalue("split_only")
    model, kept = adapted(positions), torch.tensor(kept)
    inputs = {"x": X, "logits_to_keep": kept}
    if way == "one pass":
        assert shim.explain(model, inputs, NAMES).route == way
    mixed = model(**inputs, adapter_names=NAMES)
    for row, name in enumerate(NAMES):
        own = {other: alone(model, other, X[row : row + 1], kept)[0] for other in NAMES}
        torch.testing.assert_close(mixed[row], own[name], rtol=1e-9, atol=1e-12)
        assert all((own[other] - own[name]).abs().max() > 1e-3 for other in own if other != name)


@pytest.mark.parametrize("rows", [[0], [1, 0]])
def test_a_part_shares_no_memory_with_a_cache_of_the_callers(rows):
    DynamicCache = pytest.importorskip("transformers").DynamicCache
    cache = DynamicCache()
    cache.update(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, 4), 0)  # one for both samples: no rule divides it
    inputs = Inputs({"input_ids": torch.zeros(2, 1, dtype=torch.long), "past_key_values": cache, "x": X})
    part = take(inputs, rows, {})
    shared = [path for path, tensor in part.tensors().items() if tensor is inputs.tensors()[path]]
    assert shared == ["input_ids", "x"]
