"""`side_by_side`: a view exactly where the memory of the tensors is one, at equal steps."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from shim.kernels.weights import side_by_side

SHAPE = (2, 3)


def bank(count):
    return torch.arange(count * 6, dtype=torch.float64).view(count, *SHAPE)


@given(st.integers(2, 6), st.lists(st.integers(0, 5), min_size=1, max_size=6))
def test_a_view_is_the_tensors_and_no_copy(count, picked):
    together = bank(count)
    tensors = [together[index % count] for index in picked]
    with torch.no_grad():
        view = side_by_side(tensors)
    steps = {b % count - a % count for a, b in zip(picked, picked[1:])}
    assert (view is not None) == (len(steps) == 1 and min(steps) > 0)
    if view is not None:
        assert torch.equal(view, torch.stack(tensors))
        together.neg_()
        assert torch.equal(view, torch.stack(tensors))


def test_equal_steps_in_several_memories_are_chance():
    """An allocator gives neighbours: their addresses alone do not make them one memory."""
    memory = bytearray(4 * 48)
    apart = [
        torch.frombuffer(memory, dtype=torch.float64, count=6, offset=48 * index).view(SHAPE) for index in range(4)
    ]
    places = [tensor.data_ptr() for tensor in apart]
    assert {b - a for a, b in zip(places, places[1:])} == {48}
    with torch.no_grad():
        assert side_by_side(apart) is None
        assert side_by_side(list(torch.frombuffer(memory, dtype=torch.float64).view(4, *SHAPE))) is not None


def test_tensors_that_differ_in_more_than_their_place_are_none():
    together = bank(3)
    with torch.no_grad():
        assert side_by_side(list(together)) is not None
        square = torch.arange(12.0).view(3, 2, 2)
        assert side_by_side([square[0], square[1].t(), square[2]]) is None
        assert side_by_side([together[0], together[1].view(3, 2), together[2]]) is None
        assert side_by_side([together[0], together[1].view(torch.int64), together[2]]) is None
        assert side_by_side([together[0], together[1][:1], together[2]]) is None


def test_with_gradients_there_is_none():
    together = bank(3)
    assert side_by_side(list(together)) is None
    with torch.no_grad():
        assert side_by_side(list(together)) is not None
