"""Row rules: what owners become, and how they read."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shim.routing.rows import RowRule, rule_of


def owners(*values):
    return torch.tensor(values, dtype=torch.int32)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (RowRule(0, (0, 1, 2)), "dim 0, one entry per sample"),
        (RowRule(1, (0, 0, 1, 1)), "dim 1, blocks of 2"),
        (RowRule(0, (0, 1, 0, 1)), "dim 0, all 2 samples, 2 times over"),
        (RowRule(0, (1, 1, 0, 0)), "dim 0, blocks of 2 in the order [1, 0]"),
        (RowRule(0, (0, 0, 0, 1)), "dim 0, segments 3 of sample 0, 1 of sample 1"),
        (RowRule(0, (2, 2)), "dim 0, every row of sample 2"),
        (RowRule(0, (2,)), "dim 0, one row, of sample 2"),
        (RowRule(None, (0, 0, 0, 1)), "all row dimensions as one, segments 3 of sample 0, 1 of sample 1"),
    ],
)
def test_a_rule_reads_as_a_sentence_would_have_it(rule, words):
    assert rule.in_words() == words


def test_many_segments_are_counted_rather_than_listed():
    ragged = tuple(sample for turn in range(14) for sample in [turn % 2] * (turn + 1))
    assert RowRule(0, ragged).in_words() == "dim 0, 14 segments"


@given(data=st.data())
def test_a_rule_gives_back_the_owners_that_it_was_made_of(data):
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    values = data.draw(
        st.lists(st.integers(1, 3), min_size=torch.Size(shape).numel(), max_size=torch.Size(shape).numel())
    )
    given_owners = owners(*values).view(shape)
    rule = rule_of(given_owners)
    line = torch.tensor(rule.owners, dtype=torch.int32) + 1
    if rule.dim is None:
        assert torch.equal(line.view(shape), given_owners)
    else:
        along = [len(line) if dim == rule.dim else 1 for dim in range(len(shape))]
        assert torch.equal(line.view(along).expand(shape), given_owners)


def test_rows_without_an_owner_need_no_rule():
    assert rule_of(owners(0, 0)) is None
    assert rule_of(owners()) is None


def test_a_row_without_an_owner_goes_with_its_neighbours():
    assert rule_of(owners(1, 0, 2, 2).view(2, 2)) == RowRule(0, (0, 1))
    assert rule_of(owners(0, 1, 2)).owners[1:] == (0, 1)


def test_whole_is_one_entry_per_sample_in_order():
    assert RowRule(1, (0, 1, 2)).is_whole
    assert not RowRule(1, (1, 0)).is_whole
    assert not RowRule(None, (0, 1)).is_whole
    assert not RowRule(0, (0, 0, 1, 1)).is_whole
