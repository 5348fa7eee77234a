"""`shim.explain`: the route of the call and of every layer, in words."""

import torch

import shim
from tests.shim.routing.bodies import APART, MIXING

NAMES = ["ann", "__base__", "ben", "ann"]
X = torch.randn(4, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def body_named(name):
    (found,) = (body for body in APART + MIXING if body.__name__ == name)
    return found


def test_the_rule_of_every_layer_call_is_in_words(adapted):
    shown = shim.explain(adapted(body_named("folded_into_blocks")), {"x": X}, NAMES)
    assert (shown.route, shown.reason) == ("one pass", "")
    (layer,) = shown.layers
    assert layer.layer.endswith("linear")
    assert layer.calls == ("input (8, 3, 4): dim 0, blocks of 2",)
    assert str(shown).splitlines()[0] == "route: one pass"
    assert "blocks of 2" in str(shown)


def test_each_call_of_a_layer_has_its_own_words(adapted):
    shown = shim.explain(adapted(body_named("called_again_in_another_layout")), {"x": X}, NAMES)
    assert [call.split(": ")[1] for call in shown.layers[0].calls] == [
        "dim 1, one entry per sample",
        "dim 0, one entry per sample",
    ]


def test_one_distinct_name_is_plain(adapted):
    assert shim.explain(adapted(APART[0]), {"x": X}, ["ann"] * 4).route == "plain"


def test_the_operation_that_mixed_samples_is_named(adapted):
    shown = shim.explain(adapted(body_named("mean_over_the_batch")), {"x": X}, NAMES)
    assert shown.route == "refuse"
    assert "mixes samples: mean on (4, 6, 4)" in shown.reason


def test_the_way_a_value_left_torch_is_named(adapted):
    shown = shim.explain(adapted(body_named("scaled_by_a_number_of_the_batch")), {"x": X}, NAMES)
    assert "item() of a value that adapters change" in shown.reason
    shown = shim.explain(adapted(body_named("memory_written_unseen")), {"x": X}, NAMES)
    assert "of a value that adapters change" in shown.reason


def test_split_says_why_it_is_not_one_pass(adapted):
    shown = shim.explain(adapted(body_named("a_row_that_all_need")), {"x": X}, NAMES)
    assert shown.route == "split"
    assert "computed once for several samples" in shown.reason


def test_the_fallback_is_taken_into_account(adapted):
    model = adapted(body_named("a_row_that_all_need"))
    shim.install(fallback="refuse")
    assert shim.explain(model, {"x": X}, NAMES).route == "refuse"


def test_explaining_changes_nothing(adapted):
    model = adapted(APART[0])
    before = torch.get_rng_state()
    weights = {path: tensor.clone() for path, tensor in model.state_dict().items()}
    shim.explain(model, {"x": X}, NAMES)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.active_adapter == "ann"
    assert all(torch.equal(tensor, weights[path]) for path, tensor in model.state_dict().items())
