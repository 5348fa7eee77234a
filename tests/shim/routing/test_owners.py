"""The lattice of owner ids: joins, reductions, and how variables are settled."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shim.routing.owners import BY_INPUTS, MIXED, Lattice

SAMPLES = 3


def ids(*values):
    return torch.tensor(values, dtype=torch.int32)


@pytest.fixture
def lattice():
    made = Lattice(SAMPLES)
    made.tainted = True
    return made


owner = st.integers(-1, SAMPLES)


@given(st.lists(st.lists(owner, min_size=4, max_size=4), min_size=1, max_size=4))
def test_a_join_is_the_set_of_owners(rows):
    lattice = Lattice(SAMPLES)
    lattice.tainted = True
    joined = lattice.join(*(ids(*row) for row in rows))
    reduced = lattice.reduce(ids(*rows) if len(rows) > 1 else torch.tensor(rows, dtype=torch.int32), [0])
    for position in range(4):
        found = {row[position] for row in rows} - {0}
        expected = MIXED if len(found) > 1 or MIXED in found else next(iter(found), 0)
        assert int(joined[position]) == expected
        assert int(reduced[0, position]) == expected


@given(st.lists(owner, min_size=1, max_size=5), st.lists(st.tuples(st.integers(0, 3), owner), max_size=6))
def test_a_spread_is_a_join_at_each_place(start, pairs):
    lattice = Lattice(SAMPLES)
    lattice.tainted = True
    pairs = [(place % len(start), one) for place, one in pairs]
    places = torch.tensor([place for place, _ in pairs], dtype=torch.int64)
    result = lattice.spread(ids(*start), places, ids(*(one for _, one in pairs)))
    for place, before in enumerate(start):
        found = {before, *(one for at, one in pairs if at == place)} - {0}
        assert int(result[place]) == (MIXED if len(found) > 1 or MIXED in found else next(iter(found), 0))


def test_none_stands_for_constants(lattice):
    assert lattice.join(None, None) is None
    assert lattice.join(None, ids(1, 0)).tolist() == [1, 0]
    assert lattice.reduce(None, [0]) is None


def test_a_reduction_of_nothing_is_constant(lattice):
    assert lattice.reduce(torch.zeros(0, 2, dtype=torch.int32), [0]).tolist() == [[0, 0]]


def test_a_clash_of_values_that_adapters_do_not_change_is_a_lost_hint():
    lattice = Lattice(SAMPLES)
    assert lattice.join(ids(1, 1), ids(2, 1)).tolist() == [0, 1]
    assert lattice.reduce(ids(1, 2), [0]).tolist() == [0]


def test_a_variable_takes_the_owner_that_it_meets(lattice):
    first, second = lattice.fresh(2, "cpu").tolist()
    assert lattice.join(ids(first, second), ids(2, 0)).tolist() == [2, second]
    settled = lattice.settle()
    assert settled.owner[first] == 2
    assert settled.owner[second] == 0


def test_variables_that_meet_share_their_owner(lattice):
    first, second, third = lattice.fresh(3, "cpu").tolist()
    lattice.reduce(ids(first, second, third), [0])
    lattice.join(ids(third), ids(1))
    assert lattice.settle().owner[[first, second, third]].tolist() == [1, 1, 1]


@pytest.mark.parametrize("how", ["join", "reduce", "spread", "claim"])
def test_a_variable_of_two_samples_is_mixed(lattice, how):
    variable = int(lattice.fresh(1, "cpu"))
    for sample in (1, 3):
        if how == "join":
            lattice.join(ids(variable), ids(sample))
        elif how == "reduce":
            lattice.reduce(ids(variable, 0, sample), [0])
        elif how == "spread":
            lattice.spread(ids(variable), torch.tensor([0]), ids(sample))
        else:
            lattice.claim(ids(variable), ids(sample))
    assert lattice.settle().owner[variable] == MIXED


def test_a_variable_that_meets_a_mixed_value_is_mixed(lattice):
    variable = int(lattice.fresh(1, "cpu"))
    assert lattice.join(ids(variable), ids(MIXED)).tolist() == [MIXED]
    assert lattice.settle().owner[variable] == MIXED


def test_a_variable_settled_by_data_says_so(lattice):
    first, second = lattice.fresh(2, "cpu").tolist()
    lattice.decider = BY_INPUTS
    lattice.by_data = True
    lattice.join(ids(first), ids(1))
    lattice.by_data = 0
    lattice.join(ids(second), ids(1))
    assert lattice.settle().by_data[[first, second]].tolist() == [BY_INPUTS, 0]


def test_a_rewound_lattice_forgets(lattice):
    variable = int(lattice.fresh(1, "cpu"))
    before = lattice.checkpoint()
    lattice.join(ids(variable), ids(1))
    lattice.rewind(before)
    assert lattice.settle().owner[variable] == 0
