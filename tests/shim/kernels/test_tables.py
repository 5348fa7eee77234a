"""Rows cut into tiles: each once, under its own adapter, whatever the height."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shim.kernels.tables import MOST_TILES_PER_ADAPTER, RowTable

owners = st.lists(st.sampled_from(["ann", "ben", "cat", ""]), min_size=1, max_size=12).filter(any)


def table_of(names):
    rows = {}
    for row, name in enumerate(names):
        if name:
            rows.setdefault(name, []).append(row)
    return RowTable(rows, len(names), "cpu")


@given(owners, st.sampled_from([1, 4, 100]), st.booleans())
def test_every_row_of_an_adapter_is_in_one_tile_of_it(names, tokens, kept):
    table = table_of(names)
    tiles = table.tiles(tokens, kept=kept)
    gather = torch.arange(len(names)) if tiles.gather is None else tiles.gather
    assert len(gather) == len(tiles.slots) * tiles.height
    places = torch.arange(len(gather)) if tiles.places is None else tiles.places
    assert gather[places].tolist() == tiles.rows.tolist()
    assert sorted(tiles.rows.tolist()) == [row for row, name in enumerate(names) if name]
    for place, row in enumerate(gather.tolist()):  # the repetitions too: another's row may be inf
        assert table.adapters[tiles.slots[place // tiles.height]] == names[row]


@given(owners)
def test_kept_tiles_are_few(names):
    table = table_of(names)
    assert len(table.tiles(1, kept=True).slots) <= MOST_TILES_PER_ADAPTER * len(table.adapters)


@given(owners)
def test_a_part_has_the_same_rows(names):
    table = table_of(names)
    slots = range(1, len(table.adapters))
    if slots:
        part = table.of(slots)
        assert part is table.of(slots)
        assert part.adapters == table.adapters[1:]
        assert part.rows == table.rows[1:]
    assert table.of(range(len(table.adapters))) is table


@pytest.mark.parametrize(
    ("counts", "tokens", "height"),
    [
        ([4, 4, 4], 1, 4),  # one tile for each adapter
        ([8, 1, 1, 1, 1, 1, 1, 1, 1], 100, 1),  # repetitions of many tokens cost more than weights
        ([2, 1, 1, 1], 1, 2),  # weights cost more than repetitions of one token
    ],
)
def test_the_height_weighs_weights_against_repetitions(counts, tokens, height):
    names = [str(slot) for slot, count in enumerate(counts) for _ in range(count)]
    assert table_of(names).tiles(tokens).height == height


def test_tiles_that_are_all_rows_in_order_gather_nothing():
    assert table_of(["ann", "ben"]).tiles(1).gather is None
    assert table_of(["ann", "", "ben"]).tiles(1).gather is not None
    assert table_of(["ann", "ben", "ann"]).tiles(1).gather is not None
