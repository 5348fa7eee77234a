"""Inputs that are one for the whole batch, though they are as long as it."""

import pytest
import torch

import shim

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
