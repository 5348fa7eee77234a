"""`bench memory` on models too small to say anything: that it measures what it says, not how much."""

import sys

import pytest

from conformance.bench import memory
from conformance.bench.memory import MIB, Case, Found, counts


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_the_process_holds_the_model_and_its_adapters():
    found = memory._in_a_process(Case(1, 16, 2, 2))
    assert found.model > 4 * 2 * 1000 * 16  # in float32, embeddings and head
    assert found.peft > found.model
    assert found.shim > found.model
    assert found.packed > found.model


def test_the_price_of_an_adapter_is_the_slope_and_one_adapter_is_no_mixed_batch(monkeypatch):
    made = {
        1: Found(100, 1000, 1000, 0, 1000, 0),
        2: Found(100, 1010, 1500, 50, 1510, 50),
        12: Found(100, 1110, 1605, 70, 1610, 51),
    }
    monkeypatch.setattr(memory, "_in_a_process", lambda case: made[case.loaded])
    rows = {row.name: row.value for row in memory.measure(quick=True, of=list(made))}
    assert rows["2 adapters loaded: shim"] * MIB == 1500
    assert rows["12 adapters loaded: a copy of the model for each"] * MIB == pytest.approx(1200)
    assert rows["one adapter more: PEFT"] * MIB == pytest.approx(10)
    assert rows["one adapter more: shim"] == pytest.approx(1.05)
    assert rows["one adapter more: shim at its peak"] == pytest.approx(1.2)
    assert rows["one adapter more: shim, packed"] == pytest.approx(1.0)
    assert rows["one adapter more: shim, packed, at its peak"] == pytest.approx(1.01)
    assert rows["one adapter more: a copy of the model"] == pytest.approx(10)


def test_a_slope_needs_two_mixed_batches(monkeypatch):
    monkeypatch.setattr(memory, "_in_a_process", lambda case: Found(100, 1000, 1000, 0, 1000, 0))
    assert not [row for row in memory.measure(quick=True, of=[1, 2]) if "more:" in row.name]
    assert all(len([count for count in counts(quick) if count > 1]) > 1 for quick in (True, False))
