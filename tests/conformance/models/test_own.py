"""A user's function becomes a model that the checks take, or an error that says what is missing."""

import pytest
import torch
from torch import nn

from conformance.models import model_named
from conformance.models.own import _targets, own_model
from conformance.scenarios import Adapter
from conformance.selection import CannotLoad, chosen_models
from conformance.subject import routes, with_adapters
from tests.conformance import odd_models

HERE = "own:tests.conformance.own_models"
ODD = "own:tests.conformance.odd_models"


def test_a_module_is_adapted_on_its_linear_layers_by_endings_that_nothing_else_has():
    model = own_model(f"{HERE}:module")
    assert model.targets == ("stack.0", "2", "tail.1")
    assert model.tags == frozenset()
    assert model.architecture == ""


def test_rows_are_the_users_in_any_order_and_again_where_there_are_not_as_many():
    model = own_model(f"{HERE}:module")
    drawn = model.inputs(5, 1, torch.Generator().manual_seed(0))["x"]
    rows = {tuple(row.flatten().tolist()) for row in drawn}
    assert len(drawn) == 5
    assert len(rows) == 3


def test_a_causal_model_generates_whether_it_has_adapters_or_not():
    for function in ("causal", "adapted"):
        model = own_model(f"{HERE}:{function}")
        assert model.tags == {"causal-lm", "generates"}
        assert not hasattr(model.build(), "peft_config")
        assert not [name for name, _ in model.build().named_modules() if "lora" in name]
        assert model.architecture == "LlamaForCausalLM"
    assert "q_proj" in model.targets


@pytest.mark.parametrize(
    ("function", "targets"),
    [("injected", {"up", "down"}), ("prompted", {"q_proj", "lm_head"}), ("namesakes", {"scaled"})],
)
def test_targets_are_what_peft_takes_for_a_linear_layer_of_the_model_without_adapters(function, targets):
    model = own_model(f"{ODD}:{function}")
    assert targets <= set(model.targets)
    assert not [target for target in model.targets if "lora" in target or "base" in target or target == "mine"]
    with_adapters(model, [Adapter("ann", targets=model.targets)], 0, "cpu")


def test_layers_whose_weights_are_no_numbers_to_add_to_are_no_targets(monkeypatch):
    def without_up():
        model, inputs = odd_models.made()
        model.up.weight = nn.Parameter(model.up.weight.data.to(torch.uint8), requires_grad=False)
        return model, inputs

    assert list(_targets(without_up()[0])) == ["down"]


def test_two_samples_that_are_equal_in_every_input_are_refused():
    with pytest.raises(CannotLoad, match=r"samples 1 and 3 are equal in all of \['x'\], but any two should differ"):
        own_model(f"{ODD}:equal_samples")
    assert own_model(f"{ODD}:equal_masks").targets


def test_it_is_found_by_name_and_chosen_beside_others():
    name = f"{HERE}:module"
    assert model_named(name) is own_model(name)
    assert [model.name for model in chosen_models(f"{name},bert")] == ["bert", name]
    assert [model.name for model in chosen_models(name)] == [name]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("missing", "package.module:function"),
        ("nothing", "should return"),
        ("without_layers", "no linear layer"),
        ("without_tensors", r"inputs \['x'\]"),
        ("one_sample", "two or more"),
    ],
)
def test_what_cannot_be_checked_is_said(function, said):
    with pytest.raises(CannotLoad, match=said):
        own_model(f"{HERE}:{function}")


def test_the_routes_are_told_layer_by_layer():
    told = routes(own_model(f"{HERE}:module"), "cpu")
    assert told.startswith("route: one pass")
    assert "stack.2: input (12, 8): dim 0, blocks of 4" in told
    assert "mixes samples" in routes(own_model(f"{HERE}:mixing"), "cpu")
