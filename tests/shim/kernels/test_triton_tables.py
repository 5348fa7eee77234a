"""The kernels' tables: every token in one tile of its adapter, shapes that names do not change, entries by number."""

import struct
from concurrent.futures import ThreadPoolExecutor

import torch
from hypothesis import given
from hypothesis import strategies as st

from shim.kernels.tables import RowTable
from shim.kernels.triton_tables import addresses, bits, number, place, tiles_of

NAMES = ["ann", "ben", "cat", "dan"]
batches = st.lists(st.sampled_from([*NAMES, "__base__"]), min_size=1, max_size=9).filter(lambda n: set(n) & set(NAMES))


def table_of(names):
    rows = {}
    for row, name in enumerate(names):
        if name != "__base__":
            rows.setdefault(name, []).append(row)
    return RowTable(rows, len(names), torch.device("cpu"))


@given(batches, st.sampled_from([1, 3, 16, 40]), st.sampled_from([1, 4, 16]))
def test_every_token_is_in_one_tile_of_its_adapter(names, tokens, height):
    table = table_of(names)
    order, tiles = place(table, tokens, height)
    assert place(table, tokens, height)[1] is tiles
    found = {}
    for adapter, first, end in tiles.t().tolist():
        if adapter >= 0:
            assert first < end
            for at in range(first, min(first + height, end)):
                key = (order[at // tokens].item(), at % tokens)
                assert key not in found
                found[key] = adapter
    expected = {
        (row, token): number(name) for row, name in enumerate(names) if name != "__base__" for token in range(tokens)
    }
    assert found == expected


def test_tables_for_other_names_have_the_same_shapes():
    numbers = torch.tensor([5, 3])
    shapes = {
        tuple(part.shape for part in tiles_of(torch.tensor(slots), numbers, 3, 4))
        for slots in ([0, 0, 0, 0], [0, 1, 2, 2], [1, 0, 1, 0], [2, 2, 2, 2])
    }
    assert len(shapes) == 1


def entered(layer, entries, fit=lambda: True):
    return addresses(layer, entries, torch.device("cpu"), torch.float32, fit)


def test_a_tables_entries_are_by_number_and_it_stays_where_it_is():
    layer = torch.nn.Identity()
    first, second = number("first"), number("second")
    assert number("first") == first != second
    table = entered(layer, {second: (16, 32, 4, 5)})
    assert table[second].tolist() == [16, 32, 4, 5]
    for first_entry in ((48, 64, 4, 5), (48, 80, 4, 5), (48, 80, 8, 5), (48, 80, 8, 6)):
        assert entered(layer, {first: first_entry}) is table
        assert table[[first, second]].tolist() == [list(first_entry), [16, 32, 4, 5]]
    assert entered(torch.nn.Identity(), {second: (16, 32, 4, 5)}) is not table
    for index in range(len(table)):
        number(f"another {index}")
    last = number("the last")
    larger = entered(layer, {last: (96, 112, 4, 5)})
    assert larger[[first, second, last]].tolist() == [list(first_entry), [16, 32, 4, 5], [96, 112, 4, 5]]
    assert table[second].tolist() == [16, 32, 4, 5]  # whoever reads it still finds what it held


def test_threads_do_not_take_each_others_entries_away():
    layer = torch.nn.Identity()
    entries = {number(f"thread {index}"): (16 * index, 16, 4, 5) for index in range(200)}

    def enter(some):
        for key in some:
            assert entered(layer, {key: entries[key]})[key].tolist() == list(entries[key])

    keys = list(entries)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(enter, [keys[start::4] for start in range(4)]))
    table = entered(layer, entries)
    assert {key: tuple(table[key].tolist()) for key in keys} == entries


def test_what_does_not_fit_is_not_entered():
    layer = torch.nn.Identity()
    key = number("first")
    assert entered(layer, {key: (16, 32, 4, 5)}, lambda: False) is None
    table = entered(layer, {key: (16, 32, 4, 5)})
    assert entered(layer, {key: (16, 32, 4, 5)}, lambda: False) is table  # known
    assert entered(layer, {key: (16, 48, 4, 5)}, lambda: False) is None
    assert table[key].tolist() == [16, 32, 4, 5]


def test_scalings_keep_their_bits():
    for value in (1.0, -0.5, 1 / 3, 1e30):
        assert struct.unpack("f", struct.pack("i", bits(value)))[0] == torch.tensor(value, dtype=torch.float32).item()
