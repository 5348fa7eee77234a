"""Owner ids per storage element: whatever a view shows, the memory remembers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shim.routing.owners import MIXED, Lattice
from shim.routing.storage import OwnerStore, overlaps_itself


def stores():
    lattice = Lattice(3)
    lattice.tainted = True
    return OwnerStore(lattice)


def ids(*values):
    return torch.tensor(values, dtype=torch.int32)


def test_an_unwritten_tensor_is_constant():
    store = stores()
    assert store.ids(torch.zeros(3)) is None
    assert not store.knows(torch.zeros(3))


@given(st.permutations([0, 1, 2]), st.integers(1, 2), st.integers(0, 1))
def test_a_view_shows_the_owners_of_its_elements(order, step, start):
    store, tensor = stores(), torch.zeros(3, 4, 2)
    owners = torch.randint(0, 4, (3, 4, 2), dtype=torch.int32)
    store.write(tensor, owners)
    view = tensor.permute(order)[..., start::step]
    assert torch.equal(store.ids(view), owners.permute(order)[..., start::step])


def test_a_write_through_a_view_reaches_the_memory():
    store, tensor = stores(), torch.zeros(2, 3)
    store.write(tensor, ids(1, 2).view(2, 1).expand(2, 3))
    store.write(tensor.t()[1], ids(3, 0))
    assert store.ids(tensor).tolist() == [[1, 3, 1], [2, 0, 2]]
    store.write(tensor.diagonal(), None)
    assert store.ids(tensor).tolist() == [[0, 3, 1], [2, 0, 2]]


def test_a_write_of_its_own_ids_shifted_reads_before_it_writes():
    store, tensor = stores(), torch.zeros(4)
    store.write(tensor, ids(1, 2, 3, 0))
    store.write(tensor[1:], store.ids(tensor)[:-1])
    assert store.ids(tensor).tolist() == [1, 1, 2, 3]


def test_elements_that_share_memory_are_joined():
    store, tensor = stores(), torch.zeros(3)
    store.write(tensor.as_strided((2, 2), (1, 1)), ids(1, 2, 3, 3).view(2, 2), tainted=True)
    assert store.ids(tensor).tolist() == [1, MIXED, 3]
    store.write(tensor[:1].expand(4), None)
    assert store.ids(tensor).tolist() == [0, MIXED, 3]


def test_numbers_seen_as_bytes_and_bytes_as_numbers():
    store, tensor = stores(), torch.zeros(2, dtype=torch.float32)
    store.write(tensor, ids(1, 2), tainted=True)
    assert store.ids(tensor.view(torch.int16)).tolist() == [1, 1, 2, 2]
    assert store.ids(tensor.view(torch.float64)).tolist() == [MIXED]


def test_a_complex_number_and_its_parts():
    store, tensor = stores(), torch.zeros(2, dtype=torch.complex64)
    store.write(tensor, ids(1, 2), tainted=True)
    assert store.ids(torch.view_as_real(tensor)).tolist() == [[1, 1], [2, 2]]
    store.write(torch.view_as_real(tensor)[:, 0], ids(1, 3), tainted=True)
    assert store.ids(tensor).tolist() == [1, MIXED]


def test_memory_that_grew_is_constant_where_it_is_new():
    store, tensor = stores(), torch.zeros(2)
    store.write(tensor, ids(1, 2))
    tensor.resize_(4)
    assert store.ids(tensor).tolist() == [1, 2, 0, 0]


def test_what_is_gone_is_forgotten():
    store, tensor = stores(), torch.zeros(2)
    store.write(tensor, ids(1, 2))
    del tensor
    store.sweep()
    assert not store._blocks


def test_marks_stay_with_the_memory():
    store, tensor = stores(), torch.zeros(4)
    store.write(tensor[:2], ids(1, MIXED), tainted=True, by_data=1)
    assert store.tainted(tensor[2:])
    assert store.by_data(tensor[2:])
    assert store.mixed(tensor[2:])


@pytest.mark.parametrize(
    ("shape", "strides", "overlaps"),
    [
        ((2, 3), (3, 1), False),
        ((2, 3), (1, 2), False),
        ((2, 3), (10, 2), False),
        ((3, 5), (1, 1), True),
        ((2, 3), (2, 1), True),
        ((2, 3), (0, 1), True),
        ((1, 3), (0, 1), False),
        ((0, 3), (0, 0), False),
    ],
)
def test_memory_that_overlaps_itself_is_told(shape, strides, overlaps):
    tensor = torch.zeros(30).as_strided(shape, strides)
    assert overlaps_itself(tensor) is overlaps
    places = torch.arange(30).as_strided(shape, strides)
    assert (places.unique().numel() < places.numel()) is overlaps
