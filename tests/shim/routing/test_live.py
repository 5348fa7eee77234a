"""Layers whose rows data decides: dispatched experts live, fused ones once per adapter, packed pictures traced anew."""

import peft
import pytest
import torch
from torch import nn

import shim

NAMES = ["ann", "__base__", "ben", "ann"]


class Experts(nn.ModuleList):
    """Each token through the expert that the router chose for it, as token-dispatched mixtures do."""

    def forward(self, tokens, chosen, weights):
        out = torch.zeros_like(tokens)
        for number in range(len(self)):
            (rows,) = torch.where(chosen == number)
            out.index_add_(0, rows, self[number](tokens[rows]) * weights[rows, None])
        return out


class Mixture(nn.Module):
    def __init__(self, experts=3):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.router = nn.Linear(4, experts)
        self.experts = Experts([nn.Linear(4, 4) for _ in range(experts)])
        self.last = nn.Linear(4, 4)

    def forward(self, x):
        tokens = self.first(x).reshape(-1, 4)
        weights, chosen = self.router(tokens).softmax(-1).max(-1)
        return self.last(x + self.experts(tokens, chosen, weights).view(x.shape))


def adapted(module, targets):
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False)
    model = peft.get_peft_model(module.double(), config, adapter_name="ann")
    model.add_adapter("ben", config)
    return model.double().eval()


def check(model, x, names=NAMES):
    with torch.no_grad():
        mixed = model(x, adapter_names=names)
        for row, name in enumerate(names):
            own = model(x[row : row + 1], adapter_names=[name])[0]
            torch.testing.assert_close(mixed[row], own, rtol=1e-9, atol=1e-12)
            for other in {"ann", "ben", "__base__"} - {name}:
                assert (model(x[row : row + 1], adapter_names=[other])[0] - own).abs().max() > 1e-4


def tokens(seed):
    return 3 * torch.randn(4, 7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


TARGETS = ["first", "router", "last", "experts.0", "experts.1", "experts.2"]


def test_dispatched_experts_are_routed_live(installed_shim):
    model = adapted(Mixture(), TARGETS)
    shim.install(fallback="refuse")
    for seed in range(5):  # other data dispatches other tokens
        check(model, tokens(seed))
    shown = shim.explain(model, {"x": tokens(0)}, NAMES)
    assert shown.route == "live"
    assert "(decided by data)" in str(shown)


def test_live_is_exact_where_the_adapters_change_what_the_router_chooses(installed_shim):
    model = adapted(Mixture(), TARGETS)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if "router" in path and "lora_" in path:
                parameter.mul_(20)
    x = tokens(1)
    with torch.no_grad():
        chosen = []
        handle = model.get_base_model().experts.register_forward_pre_hook(
            lambda _, args: chosen.append(args[1].clone())
        )
        for name in ("ann", "ben", "__base__"):
            model(x, adapter_names=[name] * 4)
        handle.remove()
    assert not torch.equal(chosen[0], chosen[1])
    shim.install(fallback="refuse")
    check(model, x)


def test_a_split_is_taken_where_it_costs_less(installed_shim):
    model = adapted(Mixture(), TARGETS)
    shown = shim.explain(model, {"x": tokens(0)}, NAMES)
    assert shown.route == "split"
    assert "router" in shown.reason or "experts" in shown.reason
    check(model, tokens(0))


def test_live_is_taken_where_samples_cannot_be_split(installed_shim):
    class Packed(Mixture):
        """Puts packed patches into places among the tokens of four samples, no more and no fewer."""

        def forward(self, x, patches, places):
            if len(x) != 4:
                raise ValueError("there is a cache for four")
            return super().forward(x.masked_scatter(places, self.first(patches)))

    model = adapted(Packed(), TARGETS)
    places = torch.zeros(4, 7, 1, dtype=torch.bool)
    places[0, :3] = places[1, 2] = places[3, 5:] = True
    inputs = {"x": tokens(0), "patches": tokens(9).reshape(-1, 4)[:6], "places": places}
    owners = {"patches": [0, 0, 0, 1, 3, 3]}
    with torch.no_grad():
        assert shim.explain(model, inputs, NAMES, owners=owners).route == "live"
        mixed = model(**inputs, adapter_names=NAMES, owners=owners)
        for row, name in enumerate(NAMES):
            torch.testing.assert_close(mixed[row], model(**inputs, adapter_names=[name] * 4)[row])


def test_a_capacity_that_counts_over_the_batch_is_not_live(installed_shim):
    class Limited(Mixture):
        def forward(self, x):
            tokens = self.first(x).reshape(-1, 4)
            weights, chosen = self.router(tokens).softmax(-1).max(-1)
            place = torch.nn.functional.one_hot(chosen, 3).cumsum(0)
            kept = (place.gather(1, chosen[:, None]) <= 4).squeeze(1)
            return self.last(x + (self.experts(tokens, chosen, weights) * kept[:, None]).view(x.shape))

    model = adapted(Limited(), TARGETS)
    shim.install(fallback="refuse")
    with pytest.raises(shim.RefusedError, match="mixes samples"):
        model(tokens(0), adapter_names=NAMES)


def test_experts_without_adapters_are_row_wise_by_contract(installed_shim):
    model = adapted(Mixture(), ["first", "last"])
    assert shim.explain(model, {"x": tokens(0)}, NAMES).route == "one pass"
    check(model, tokens(0))


def test_gradients_flow_through_live_rows(installed_shim):
    model = adapted(Mixture(), TARGETS)
    shim.install(fallback="refuse")
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    x = tokens(0).requires_grad_(True)
    model(x, adapter_names=NAMES)[2].sum().backward()
    assert x.grad[2].abs().sum() > 0
    assert x.grad[[0, 1, 3]].abs().sum() == 0
