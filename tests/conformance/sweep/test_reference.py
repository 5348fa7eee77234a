from contextlib import contextmanager

import pytest
import torch

from conformance.compare import relative_error
from conformance.models.every.batch import Batch
from conformance.sweep.reference import Reference


class Toy:
    """Runs a function as a PEFT model would, without any adapter."""

    def __init__(self, function):
        self.function = function

    def __call__(self, x):
        return self.function(x)

    @contextmanager
    def disable_adapter(self):
        yield


def reference(function, batch=None):
    made = batch or Batch(3, {"x": torch.randn(3, 4, dtype=torch.float64)})
    return Reference(Toy(function), made, 1e-9)


@pytest.mark.parametrize(
    ("function", "dim", "blocks"),
    [
        (lambda x: x * 2, 0, True),
        (lambda x: x.t().contiguous(), 1, True),
        (lambda x: x.repeat_interleave(2, 0), 0, True),
        (lambda x: torch.cat([x, -x]), 0, False),
    ],
)
def test_rows_are_found_wherever_they_are(function, dim, blocks):
    found = reference(lambda x: {"y": function(x)})
    assert (found.places["y"].dim, found.places["y"].blocks) == (dim, blocks)
    assert found.batchable
    for sample in range(3):
        rows = found.rows_of(found.whole("__base__"), range(3), sample)["y"]
        assert relative_error(rows, found.alone("__base__", sample)["y"]) == 0.0


def test_rows_of_unequal_samples_are_found():
    batch = Batch(3)
    batch.add("x", [torch.randn(count, 2, dtype=torch.float64) for count in (3, 1, 2)])
    found = reference(lambda x: {"y": x * 2}, batch)
    assert [found.sizes("y", 0, [sample])[0] for sample in (0, 1, 2)] == [3, 1, 2]
    reordered = {"y": found.model(**batch.of([2, 0]).arguments)["y"]}
    assert torch.equal(found.rows_of(reordered, [2, 0], 0)["y"], found.alone("__base__", 2)["y"])


def test_outputs_without_rows_are_named():
    found = reference(lambda x: {"y": x, "loss": x.sum(), "pairs": x @ x.t()})
    assert set(found.places) == {"y"}
    assert set(found.rowless) == {"loss", "pairs"}


def test_a_model_that_mixes_samples_is_not_batchable():
    found = reference(lambda x: {"y": x - x.mean(0)})
    assert not found.batchable
    assert found.unlike["y"] > 1e-3


def test_each_run_is_made_once():
    calls = []
    found = reference(lambda x: {"y": calls.append(1) or x})
    assert len(calls) == 4
    found.whole("__base__"), found.alone("__base__", 1)
    assert len(calls) == 4


def test_rows_whose_shape_depends_on_the_rows_beside_them_are_not_compared():
    batch = Batch(2, {"x": torch.tensor([[1.0, 2.0, 3.0], [1.0, 0.0, 0.0]], dtype=torch.float64)})
    found = reference(lambda x: {"kept": x[:, : int((x > 0).sum(1).max())], "y": x}, batch)
    assert found.rowless == ["kept"]
    assert found.batchable


def test_masked_places_do_not_dwarf_the_rest():
    lowest = torch.finfo(torch.float64).min
    found = reference(lambda x: {"y": torch.cat([x, torch.full_like(x, lowest)], dim=1)})
    assert torch.isinf(found.whole("__base__")["y"][:, 4:]).all()
    assert relative_error(found.whole("__base__")["y"] * 1.1, found.whole("__base__")["y"]) == pytest.approx(0.1)
