import pytest
import torch

from conformance.models.every.batch import Batch


@pytest.fixture
def batch():
    made = Batch(3, {"input_ids": torch.arange(6).view(3, 2)}, shared={"use_cache": False})
    made.add("pixel_values", [torch.full((count, 1), float(sample)) for sample, count in enumerate((2, 1, 3))])
    return made


def test_samples_are_taken_in_any_order(batch):
    taken = batch.of([2, 0])
    assert taken.samples == 2
    assert taken.tensors["input_ids"].tolist() == [[4, 5], [0, 1]]
    assert taken.tensors["pixel_values"].flatten().tolist() == [2, 2, 2, 0, 0]
    assert taken.packed == {"pixel_values": [3, 2]}
    assert taken.arguments["use_cache"] is False


def test_taken_samples_can_be_taken_again(batch):
    assert batch.of([2, 0, 2]).of([1]).tensors["pixel_values"].flatten().tolist() == [0, 0]


def test_all_in_order_is_the_batch_itself(batch):
    again = batch.of(range(3))
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in batch.tensors.items())


def test_packed_along_another_dimension():
    batch = Batch(2, {"x": torch.arange(5).view(1, 5)}, {"x": [2, 3]}, {"x": 1})
    assert batch.of([1, 0]).tensors["x"].tolist() == [[2, 3, 4, 0, 1]]


def test_cast_leaves_ids_alone(batch):
    cast = batch.cast(torch.float64)
    assert cast.tensors["pixel_values"].dtype is torch.float64
    assert cast.tensors["input_ids"].dtype is torch.int64
    assert cast.packed == batch.packed
