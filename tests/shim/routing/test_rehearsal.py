"""What divides by sample, and what does not: found by running the base model, once for each structure of inputs."""

import pytest
import torch

import shim

pytestmark = pytest.mark.usefixtures("split_only")
NAMES = ["ann", "__base__", "ben", "ann"]
X = torch.randn(4, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_a_table_that_all_samples_share_is_never_cut(adapted):
    def body(toy, x, table):
        return toy.linear(x @ table.transpose(-1, -2) @ table)

    model = adapted(body)
    table = torch.randn(4, 4, dtype=torch.float64)  # as long as the batch, and shared
    with pytest.raises(shim.RefusedError, match="an input is not per sample"):
        model(X, table, adapter_names=NAMES)


def test_a_tensor_of_another_length_is_shared_where_that_is_right(adapted, alone):
    model = adapted(lambda toy, x, table: toy.linear(x + table))
    table = torch.randn(6, 4, dtype=torch.float64)
    mixed = model(X, table=table, adapter_names=NAMES)
    for row, name in enumerate(NAMES):
        torch.testing.assert_close(mixed[row], alone(model, name, X, table=table)[row])


@pytest.mark.parametrize("names", [["ann", "ann", "ben", "ben"], ["ann", "ben", "ann", "ben"], NAMES])
def test_samples_that_meet_in_pairs_are_refused_whatever_the_names(adapted, names):
    def body(toy, x):
        rows = toy.linear(x)
        if len(x) % 2:
            return rows
        return rows + rows.reshape(-1, 2, 6, 4).flip(1).reshape(rows.shape)

    with pytest.raises(shim.RefusedError, match="changes for a sample when other samples are left out"):
        adapted(body)(X, adapter_names=names)


class Memory:
    """A cache of the user's own: no forward on a part of the batch may touch it."""

    def __init__(self):
        self.rows = []


@pytest.mark.parametrize("value", [Memory(), X.numpy()])
def test_an_object_that_a_forward_may_change_is_refused_and_left_alone(adapted, value):
    def body(toy, x, memory=None):
        memory.rows.append(x)
        return toy.linear(x)

    model = adapted(body)
    with pytest.raises(shim.RefusedError, match=r"input 'memory' is a .*whose samples are not known"):
        model(X, memory=value, adapter_names=NAMES)
    assert getattr(value, "rows", []) == []


def test_a_plan_serves_other_lengths_and_numbers_of_samples(adapted, alone):
    calls = []

    def body(toy, x):
        calls.append(len(x))
        return toy.linear(x)

    model = adapted(body)
    model(X, adapter_names=NAMES)
    assert calls[0] == 4  # the rehearsal runs the whole batch, once
    calls.clear()
    x = torch.randn(5, 2, 4, dtype=torch.float64)
    names = ["ben", "ann", "ann", "__base__", "ben"]
    mixed = model(x, adapter_names=names)
    assert sorted(calls) == [1, 2, 2]
    for row, name in enumerate(names):
        torch.testing.assert_close(mixed[row], alone(model, name, x)[row])


def test_a_plan_that_no_longer_fits_is_made_again(adapted, alone):
    wanted = ["rows"]
    model = adapted(lambda toy, x: {key: toy.linear(x) * (i + 1) for i, key in enumerate(wanted)})
    model(X, adapter_names=NAMES)
    wanted.append("more")
    mixed = model(X, adapter_names=NAMES)
    for row, name in enumerate(NAMES):
        torch.testing.assert_close(mixed["more"][row], alone(model, name, X)["more"][row])


def test_a_rehearsal_leaves_the_random_generator_alone(adapted):
    model = adapted(lambda toy, x: toy.linear(x) + 0 * torch.rand(1, dtype=x.dtype))
    torch.manual_seed(7)
    model(X, adapter_names=["ann", "ann", "ben", "ben"])
    after = torch.rand(1)
    torch.manual_seed(7)
    torch.rand(1, dtype=X.dtype), torch.rand(1, dtype=X.dtype)  # one draw for each of the two groups
    assert torch.equal(after, torch.rand(1))


def test_layouts_do_not_pile_up(adapted, monkeypatch):
    from shim.routing import rehearsal

    monkeypatch.setattr(rehearsal, "_MOST", 3)
    model = adapted(lambda toy, x, scale: toy.linear(x) * scale)
    for scale in range(1, 7):
        model(X, scale=scale, adapter_names=NAMES)
    assert len(rehearsal._LAYOUTS[model]) == 3
