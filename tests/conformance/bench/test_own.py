"""`bench --model` on a user's own model."""

import math

import pytest
import torch

from conformance.bench import llama, own
from conformance.selection import CannotLoad


def small():
    """Build a model with two adapters and a batch of three."""
    return llama.build(1, 16, 2, 2), llama.inputs(3, 4)


def plain():
    return torch.nn.Linear(2, 2), {"x": torch.ones(1, 2)}


def nothing():
    return None


HERE = __name__


def test_the_models_own_adapters_are_measured_beside_upstream():
    model, inputs, names = own.load(f"{HERE}:small", [])
    assert names == ["a0", "a1"]
    rows = {row.name: row for row in own.measure(model, inputs, names, seconds=0)}
    for distinct in (1, 2):
        for way in ("shim", "PEFT", "switch", "single again"):
            assert rows[f"{distinct} adapters: {way}"].value > 0


def test_adapters_are_chosen_by_name_or_loaded_from_folders(tmp_path):
    model, _ = small()
    model.save_pretrained(str(tmp_path), selected_adapters=["a1"])
    (tmp_path / "a1").rename(tmp_path / "mine")
    model, _, names = own.load(f"{HERE}:small", ["a0", str(tmp_path / "mine")])
    assert names == ["a0", "mine"]
    assert "mine" in model.peft_config


@pytest.mark.parametrize(
    ("spec", "adapters", "said"),
    [
        ("no.such.module:build", [], "No module named"),
        (f"{HERE}:missing", [], "missing"),
        (f"{HERE}:nothing", [], "should return"),
        (f"{HERE}:plain", [], "without adapters"),
        (f"{HERE}:small", ["zz"], "neither loaded"),
    ],
)
def test_what_cannot_be_measured_is_said(spec, adapters, said):
    with pytest.raises(CannotLoad, match=said):
        own.load(spec, adapters)


def test_a_call_that_upstream_refuses_has_no_time(monkeypatch):
    model, inputs, names = own.load(f"{HERE}:small", [])
    monkeypatch.setattr(own, "raised_by_upstream", lambda way: "ValueError")
    rows = {row.name: row for row in own.measure(model, inputs, names, seconds=0)}
    assert math.isnan(rows["2 adapters: PEFT"].value)
    assert "ValueError" in rows["2 adapters: PEFT"].spread
    assert rows["2 adapters: shim"].value > 0


def test_inputs_that_no_sample_has_a_row_of_are_left_whole():
    taken = own._rows({"x": torch.arange(6).view(3, 2), "table": torch.ones(4), "flag": True}, [2, 0], 3)
    assert taken["x"].tolist() == [[4, 5], [0, 1]]
    assert taken["table"].shape == (4,)
    assert taken["flag"] is True
