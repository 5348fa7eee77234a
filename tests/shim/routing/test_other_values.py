"""What was right for one call's values is not taken for right of the next's: rows placed, sorted, compared, bounded."""

import pytest
import torch

import shim
from tests.shim.routing.rows_alone import NAMES, X, check_rows

DATA = torch.randn(4, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def by_mask(h, mask, rows):
    h = h.clone()
    h[mask] = rows
    return h


def by_masked_scatter(h, mask, rows):
    return h.masked_scatter(mask.unsqueeze(-1).expand_as(h), rows)


def by_places_found(h, mask, rows):
    h = h.clone()
    h[mask.nonzero(as_tuple=True)] = rows
    return h


def by_counting(h, mask, rows):
    places = (mask.flatten().cumsum(0) - 1).clamp(min=0)  # made of all samples before, and so no one's
    return torch.where(mask.unsqueeze(-1), rows[places].view_as(h), h)


@pytest.mark.parametrize("place", [by_mask, by_masked_scatter, by_places_found, by_counting])
def test_rows_that_data_places_are_followed_at_every_call(adapted, alone, place):
    """Two rows for each sample fall on its own places; with another mask they fall on another's."""

    def body(toy, ids, data):
        rows = toy.linear(data).flatten(0, 1)
        return place(ids.double().unsqueeze(-1).expand(*ids.shape, 4), ids == 9, rows)

    model = adapted(body)
    for counts in ([2, 2, 2, 2], [4, 0, 2, 2], [0, 2, 4, 2], [2, 2, 2, 2]):
        ids = torch.arange(6).repeat(4, 1)
        for row, count in enumerate(counts):
            ids[row, :count] = 9
        try:
            with torch.no_grad():
                mixed = model(ids, DATA, adapter_names=NAMES)
        except shim.RefusedError:
            assert len(set(counts)) > 1
            continue
        for row, name in enumerate(NAMES):
            torch.testing.assert_close(mixed[row], alone(model, name, ids, DATA)[row], rtol=1e-9, atol=1e-12)


def longest_first(lengths):
    return sorted(range(len(lengths)), key=lambda row: lengths[row], reverse=True)


def longest_of_all_first(lengths):
    first = int(lengths.argmax())
    return [first, *(row for row in range(len(lengths)) if row != first)]


def greatest_first(lengths):
    first = int(lengths.max(0).indices)
    return [first, *(row for row in range(len(lengths)) if row != first)]


@pytest.mark.parametrize("order_of", [longest_first, longest_of_all_first, greatest_first])
def test_an_order_that_python_finds_by_comparing_samples_is_that_calls_alone(adapted, alone, order_of):
    def body(toy, x, lengths):
        order = order_of(lengths)
        back = [order.index(row) for row in range(len(order))]
        return torch.tanh(toy.linear(x[order]))[back]

    model = adapted(body)
    for lengths in ([4, 3, 2, 1], [1, 2, 3, 4], [2, 4, 1, 3]):
        lengths = torch.tensor(lengths)
        with torch.no_grad():
            mixed = model(X, lengths, adapter_names=NAMES)
        for row, name in enumerate(NAMES):
            torch.testing.assert_close(mixed[row], alone(model, name, X, lengths)[row], rtol=1e-9, atol=1e-12)


def test_a_comparison_of_the_whole_batch_is_no_order(adapted):
    """That some row is padded is no matter of which: the plan stays."""
    calls = []

    def body(toy, x, lengths):
        calls.append(1)
        return toy.linear(x) if bool((lengths > 0).all()) else x

    model = adapted(body)
    for lengths in ([4, 3, 2, 1], [1, 2, 3, 4], [2, 4, 1, 3]):
        model(X, torch.tensor(lengths), adapter_names=NAMES)
    assert len(calls) == 4  # a trace, and three calls


@pytest.mark.parametrize("greatest", [lambda y: y.abs().amax(), lambda y: y.abs().flatten().sort().values[-1]])
def test_a_split_of_samples_that_meet_is_proven_by_each_calls_values(adapted, alone, greatest):
    """A bound on the batch's greatest value changes nothing in a calm batch, and everything in another."""

    def body(toy, x):
        y = toy.linear(x)
        return y / (greatest(y) / 20).clamp(min=1)

    model = adapted(body)
    loud = X.clone()
    loud[0] *= 100
    for _ in range(2):
        check_rows(model, alone, X, NAMES)
        with pytest.raises(shim.RefusedError, match="changes for a sample when other samples are left out"):
            model(loud, adapter_names=NAMES)


def test_a_split_is_proven_under_the_adapters_too(adapted, alone):
    """The base model's values are within the bound, an adapter's are not."""

    def body(toy, x):
        y = toy.linear(x)
        return y / (y.abs().amax() / 20).clamp(min=1)

    model = adapted(body)
    check_rows(model, alone, X, NAMES)
    for path, weight in model.named_parameters():
        if "lora_B.ben" in path:
            weight.data *= 1000
    with pytest.raises(shim.RefusedError, match="changes for a sample when other samples are left out"):
        model(X, adapter_names=["ann", "ben", "__base__", "ben"])
