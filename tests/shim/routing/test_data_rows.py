"""Mixtures of experts of the user's own, which drop tokens beyond a capacity: others' tokens decide which."""

import peft
import pytest
import torch
from torch import nn

import shim
from shim.routing.data_rows import dims_sliced
from tests.shim.routing.rows_alone import NAMES


class MixtureOfExperts(nn.Module):
    """Each token through the expert that the router chose, as `take(rows)` has it."""

    def __init__(self, take):
        super().__init__()
        self.up, self.router, self.take = nn.Linear(4, 4), nn.Linear(4, 2), take
        self.parts = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

    def forward(self, x):
        tokens = self.up(x).reshape(-1, 4)
        weights, chosen = self.router(tokens).softmax(-1).max(-1)
        out = torch.zeros_like(tokens)
        for number, part in enumerate(self.parts):
            rows = self.take(torch.where(chosen == number)[0])
            out = out.index_add(0, rows, part(tokens[rows]) * weights[rows, None])
        return tokens.view(x.shape) + out.view(x.shape)


def adapted(take, targets):
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False)
    model = peft.get_peft_model(MixtureOfExperts(take).double(), config, adapter_name="ann")
    model.add_adapter("ben", config)
    return model.double().eval()


def tokens(seed, length=5):
    return 3 * torch.randn(4, length, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


TARGETS = {"before": ["up"], "router": ["up", "router"], "experts": ["up", "parts.0", "parts.1"]}
SOME = {
    "slice": lambda rows: rows[:3],
    "narrow": lambda rows: rows.narrow(0, 0, min(3, len(rows))),
    "split": lambda rows: rows.split(3)[0],
    "select": lambda rows: rows[-1:].view(-1),
    "unbind": lambda rows: torch.stack(rows.unbind(0)[:3]),
    "index_select": lambda rows: rows.index_select(0, torch.arange(min(3, len(rows)))),
    "index": lambda rows: rows[torch.arange(min(3, len(rows)))],
    "slice of all": lambda rows: rows[:100],
    "one of one": lambda rows: rows[:1][:1],
}


@pytest.mark.parametrize("way", SOME)
@pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS)
def test_tokens_within_a_capacity_are_not_taken_for_the_rows_own(way, targets, installed_shim):
    shim.install(fallback="refuse")
    model = adapted(SOME[way], targets)
    with pytest.raises(shim.RefusedError, match="takes some of the rows that data has put together"), torch.no_grad():
        model(tokens(1), adapter_names=NAMES)


def test_rows_that_happen_to_be_of_one_sample_are_others_to_decide_too(installed_shim):
    shim.install(fallback="refuse")
    model = adapted(lambda rows: rows[:3] if len(rows) < 6 else rows, ["up"])
    chosen = torch.tensor([[100.0, 0.0]] * 20, dtype=torch.float64)
    chosen[10:15, 1] = 200  # the third sample's tokens, and no others, go to the second expert
    model.base_model.model.router.register_forward_hook(lambda _, args, scores: scores.sigmoid() + chosen)
    with pytest.raises(shim.RefusedError, match="takes some of the rows that data has put together"), torch.no_grad():
        model(tokens(1), adapter_names=NAMES)


@pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("take", [lambda rows: rows, lambda rows: rows[:], lambda rows: rows.flip(0)])
def test_tokens_that_all_go_are_exact_whatever_data_decides(take, targets, installed_shim):
    shim.install(fallback="refuse")
    model = adapted(take, targets)
    with torch.no_grad():
        for seed in (1, 2, 3):
            x = tokens(seed)
            mixed = model(x, adapter_names=NAMES)
            for row, name in enumerate(NAMES):
                own = {n: model(x[row : row + 1], adapter_names=[n])[0] for n in ("ann", "ben", "__base__")}
                torch.testing.assert_close(mixed[row], own.pop(name), rtol=1e-9, atol=1e-12)
                assert all((mixed[row] - other).abs().max() > 1e-4 for other in own.values())


@pytest.mark.parametrize(
    ("index", "dims"),
    [
        (slice(None), []),
        (slice(0, None), []),
        (slice(3), [0]),
        (slice(1, None), [0]),
        ((slice(None), slice(2)), [1]),
        ((Ellipsis, slice(2)), [2]),
        ((None, slice(2)), [0]),
        ((0, slice(2)), [1]),
        ((torch.ones(2, 2, dtype=torch.bool), slice(2)), [2]),
        ((torch.arange(2), slice(None), slice(2)), [2]),
        (2, []),
    ],
)
def test_sliced_dimensions_are_found(index, dims):
    assert dims_sliced(index, 3) == dims
