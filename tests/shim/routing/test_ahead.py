"""Plans made ahead, saved and loaded: the first request pays for none, and a wrong file is told."""

import json

import pytest
import torch

import shim
from shim.routing import plans
from tests.shim.routing.bodies import APART
from tests.shim.routing.rows_alone import NAMES, X, counting


def test_a_planned_call_runs_once(adapted):
    body, calls = counting(APART[1])
    model = adapted(body)
    made = shim.plan(model, {"x": X}, batch_sizes=[2, 4, 6])
    assert {size: shown.route for size, shown in made.items()} == {2: "one pass", 4: "one pass", 6: "one pass"}
    calls.clear()
    model(x=X, adapter_names=NAMES)
    model(x=X[:2], adapter_names=NAMES[:2])
    assert calls == [(4, 6), (2, 6)]


def test_a_batch_of_one_needs_no_plan(adapted):
    assert shim.plan(adapted(APART[0]), {"x": X}, batch_sizes=[1])[1].route == "plain"


def test_owners_count_the_samples_that_are_planned_for(adapted):
    body, calls = counting(lambda toy, x: toy.linear(x))
    model, owners = adapted(body), {"x": [0, 1, 1, 2]}
    (size,) = shim.plan(model, {"x": X}, owners=owners)
    assert size == 3
    calls.clear()
    model(x=X, adapter_names=NAMES[:3], owners=owners)
    assert calls == [(4, 6)]
    with pytest.raises(shim.PlanError, match=r"batch_sizes is \[4\], but should be \[3\]"):
        shim.plan(model, {"x": X}, batch_sizes=[4], owners=owners)


@pytest.mark.parametrize("sizes", [None, [2]])
@pytest.mark.parametrize("inputs", [{}, {"x": X[:0]}, {"x": X.tolist()}])
def test_an_example_without_a_sample_is_refused(adapted, inputs, sizes):
    with pytest.raises(shim.PlanError, match="one sample or more along dim 0"):
        shim.plan(adapted(APART[0]), inputs, batch_sizes=sizes)


def test_loaded_plans_serve_as_if_made_here(adapted, tmp_path):
    model = adapted(APART[5])
    for length in (5, 6):
        shim.plan(model, {"x": X[:, :length]})
    saved = shim.save_plans(model, tmp_path / "plans.json")
    assert saved == 2
    body, calls = counting(APART[5])
    other = adapted(body)
    assert shim.load_plans(other, tmp_path / "plans.json") == 2
    expected = model(x=X, adapter_names=NAMES)
    torch.testing.assert_close(other(x=X, adapter_names=NAMES), expected)
    other(x=torch.cat([X, X], 1), adapter_names=NAMES)  # a third length, by the general plan
    assert calls == [(4, 6), (4, 12)]


def test_plans_of_another_model_are_refused(adapted, tmp_path):
    model = adapted(APART[0])
    shim.plan(model, {"x": X})
    path = tmp_path / "plans.json"
    shim.save_plans(model, path)
    with pytest.raises(shim.PlanError, match="another model, or other versions"):
        shim.load_plans(adapted(APART[0], width=8), path)
    data = json.loads(path.read_text())
    data["format"] = 0
    path.write_text(json.dumps(data))
    with pytest.raises(shim.PlanError, match="format 0"):
        shim.load_plans(model, path)


@pytest.mark.parametrize("text", ['{"format": 1, "fing', "[]", "plans", ""])
def test_a_file_that_is_none_of_plans_is_refused(adapted, tmp_path, text):
    path = tmp_path / "plans.json"
    path.write_text(text)
    with pytest.raises(shim.PlanError, match=r"plans\.json .*but should be a file that shim\.save_plans wrote"):
        shim.load_plans(adapted(APART[0]), path)


def test_plans_are_forgotten_with_their_model(adapted):
    import gc

    model = adapted(APART[0])
    shim.plan(model, {"x": X})
    before = len(plans._STORES)
    del model
    gc.collect()
    assert len(plans._STORES) < before


def test_plans_of_a_model_with_hooks_stay_in_this_process(adapted, tmp_path):
    """Another process has other hooks under the same numbers."""
    model = adapted(APART[0])
    with model.get_base_model().register_forward_hook(lambda *_: None):
        model(X, adapter_names=NAMES)
    assert shim.save_plans(model, tmp_path / "plans.json") == 0
    model(X, adapter_names=NAMES)
    assert shim.save_plans(model, tmp_path / "plans.json") == 1
