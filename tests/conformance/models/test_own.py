"""A user's function becomes a model that the checks take, or an error that says what is missing."""

import pytest
import torch

from conformance.models import model_named
from conformance.models.own import own_model
from conformance.selection import CannotLoad, chosen_models
from conformance.subject import routes

HERE = "own:tests.conformance.own_models"


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
