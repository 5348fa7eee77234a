"""Operations whose places data decides: an element belongs to the sample that it came from, and the rule says so."""

import pytest
import torch

from shim.routing.tracer import Tracer
from tests.shim.routing.brute_force import trace

ROWS = torch.tensor([[1], [2], [3]], dtype=torch.int32)


def by_data(traced, output=0):
    return bool(traced.tracer.store.by_data(traced.outputs[output]))


def follow(function, *tensors, owners):
    return trace(function, tensors, [None if one is None else one.expand(t.shape) for one, t in zip(owners, tensors)])


def test_nonzero_owns_its_coordinates():
    mask = torch.tensor([[True, False], [True, True], [False, True]])
    traced = follow(lambda x: torch.nonzero(x), mask, owners=[ROWS])
    assert traced.ids[0].tolist() == [[1, 1], [2, 2], [2, 2], [3, 3]]
    assert by_data(traced)


def test_masked_select_and_a_mask_as_index_own_what_they_pick():
    mask = torch.tensor([[True, False], [True, True], [False, True]])
    values = torch.randn(3, 2)
    for pick in (torch.masked_select, lambda x, m: x[m]):
        traced = follow(pick, values, mask, owners=[ROWS, ROWS])
        assert traced.ids[0].tolist() == [1, 2, 2, 3]
        assert by_data(traced)


def test_a_mask_that_nobody_owns_decides_nothing():
    mask = torch.tensor([[True, False], [True, True], [False, True]])
    traced = follow(lambda x, m: x[m], torch.randn(3, 2), mask, owners=[ROWS, None])
    assert traced.ids[0].tolist() == [1, 2, 2, 3]
    assert not by_data(traced)


def test_integers_sorted_across_samples_own_their_places():
    keys = torch.tensor([[5, 1], [4, 0], [3, 2]]).reshape(-1)
    owners = ROWS.expand(3, 2).reshape(-1)
    traced = follow(lambda x: tuple(x.sort()), keys, owners=[owners])
    assert [ids.tolist() for ids in traced.ids] == [[2, 1, 3, 3, 2, 1]] * 2
    assert by_data(traced)


def test_numbers_that_adapters_change_are_not_ranked_across_samples():
    traced = follow(lambda x: tuple(x.sort(0)), torch.randn(3, 2), owners=[ROWS])
    assert bool((traced.ids[0] == -1).all())


def test_rows_sorted_and_put_back_own_what_they_had():
    keys, rows = torch.tensor([2, 0, 1]), torch.randn(3, 4)

    def round_trip(k, x):
        order = k.argsort()
        back = torch.empty_like(order)
        back[order] = torch.arange(3)
        return x[order][back]

    traced = follow(round_trip, keys, rows, owners=[None, ROWS])
    assert torch.equal(traced.ids[0], ROWS.expand(3, 4))


def test_repeats_own_the_places_that_they_cover():
    traced = follow(lambda x: torch.repeat_interleave(x), torch.tensor([2, 0, 1]), owners=[ROWS.view(-1)])
    assert traced.ids[0].tolist() == [1, 1, 3]
    assert by_data(traced)


@pytest.mark.parametrize("form", ["masked_scatter", "index_put"])
def test_packed_rows_find_their_sample_through_a_mask(form):
    mask = torch.tensor([[True, False], [True, True], [False, True]])

    def place(x, m, rows):
        if form == "index_put":
            x[m] = rows
            return x
        return x.masked_scatter(m[..., None].expand_as(x), rows)

    x, rows = torch.randn(3, 2, 4), torch.randn(4, 4)
    tracer = Tracer(3)
    variables = tracer.lattice.fresh(4, "cpu").view(-1, 1)
    tracer.store.write(x, ROWS.view(3, 1, 1).expand(x.shape), tainted=True)
    tracer.store.write(mask, ROWS.expand(mask.shape))
    tracer.store.write(rows, variables.expand(rows.shape), tainted=True)
    with tracer:
        output = place(x, mask, rows)
    settled = tracer.lattice.settle()
    assert settled.owner[4:].tolist() == [1, 2, 2, 3]
    assert all(settled.by_data[4:].tolist())
    assert torch.equal(tracer.store.ids(output), ROWS.view(3, 1, 1).expand(x.shape))
    assert not tracer.without_rule


def test_an_index_of_several_samples_across_rows_is_decided_by_data():
    index, rows = torch.tensor([2, 0, 1, 0]), torch.randn(4, 2)
    owners = torch.tensor([3, 1, 2, 1], dtype=torch.int32)
    for add in (
        lambda i, x: torch.zeros(3, 2).index_add_(0, i, x),
        lambda i, x: torch.zeros(3, 2).scatter_add_(0, i[:, None].expand(4, 2), x),
        lambda i, x: torch.zeros(3, 2).index_put_((i,), x, accumulate=True),
    ):
        traced = follow(add, index, rows, owners=[owners, owners.view(-1, 1)])
        assert torch.equal(traced.ids[0], ROWS.expand(3, 2))
        assert by_data(traced)


def test_an_index_within_a_sample_is_not_decided_by_data():
    index = torch.tensor([[2], [0], [1]])
    for hot in (
        lambda i: torch.zeros(3, 4).scatter_(1, i, 1.0),
        lambda i: torch.nn.functional.one_hot(i.view(-1), 4),
        lambda i: torch.zeros(3, 4).index_put_((torch.arange(3), i.view(-1)), torch.ones(3)),
    ):
        traced = follow(hot, index, owners=[ROWS])
        assert torch.equal(traced.ids[0], ROWS.expand(3, 4))
        assert not by_data(traced)
        assert not traced.tracer.without_rule
