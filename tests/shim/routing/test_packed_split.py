"""The split route on inputs whose rows are packed: divided as `owners=` says, proven at every call, or refused."""

import pytest
import torch

import shim

pytestmark = pytest.mark.usefixtures("split_only")

NAMES = ["ann", "__base__", "ben", "ann"]
X = torch.randn(4, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def images_in_text(toy, input_ids, pixel_values):
    """Sample i has `input_ids[i, 0]` images, and they follow each other in one list."""
    counts = input_ids[:, 0].tolist()
    if sum(counts) != len(pixel_values):
        raise ValueError("image tokens and images do not match")
    return toy.linear(torch.stack([part.sum(0) for part in pixel_values.split(counts)]) + input_ids + 1)


def strips_in_text(toy, input_ids, pixel_values):
    return images_in_text(toy, input_ids, pixel_values[0].T)


def images(count):
    return torch.randn(count, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def counts(*each):
    return torch.tensor(each).view(-1, 1)


def expect_own_rows(model, alone, inputs, owners):
    mixed = model(**inputs, owners=owners, adapter_names=NAMES)
    for row, name in enumerate(NAMES):
        own = alone(model, name, **inputs)[row]
        torch.testing.assert_close(mixed[row], own)
        for other in {*NAMES} - {name}:
            assert (alone(model, other, **inputs)[row] - own).abs().max() > 1e-4, "the adapters are too alike"


@pytest.mark.parametrize("each", [(2, 1, 3, 1), (2, 0, 1, 1), (1, 1, 1, 1), (4, 0, 0, 0)])
def test_packed_rows_go_with_their_owners(adapted, alone, each):
    owners = torch.repeat_interleave(torch.arange(4), torch.tensor(each))
    inputs = {"input_ids": counts(*each), "pixel_values": images(sum(each))}
    expect_own_rows(adapted(images_in_text), alone, inputs, {"pixel_values": owners})


def test_packed_rows_may_lie_along_another_dimension(adapted, alone):
    inputs = {"input_ids": counts(2, 1, 3, 1), "pixel_values": images(7).T[None]}
    owners = {"pixel_values": torch.tensor([0, 0, 1, 2, 2, 2, 3]).view(1, 1, 7)}
    expect_own_rows(adapted(strips_in_text), alone, inputs, owners)


def test_wrong_owners_are_refused(adapted):
    inputs = {"input_ids": counts(2, 1, 3, 1), "pixel_values": images(7)}
    with pytest.raises(shim.RefusedError, match="image tokens and images do not match"):
        adapted(images_in_text)(**inputs, owners={"pixel_values": [0, 1, 1, 2, 2, 2, 3]}, adapter_names=NAMES)


def test_owners_that_change_images_of_one_number_are_refused(adapted):
    inputs = {"input_ids": counts(1, 1, 1, 1), "pixel_values": images(4)}
    with pytest.raises(shim.RefusedError, match="changes for a sample when other samples are left out"):
        adapted(images_in_text)(**inputs, owners={"pixel_values": [1, 0, 2, 3]}, adapter_names=NAMES)


def images_in_reverse(toy, input_ids, pixel_values):
    """The last sample has the first images."""
    return images_in_text(toy, input_ids.flip(0), pixel_values).flip(0)


def test_owners_in_another_order_are_taken_where_the_caller_gives_them(adapted, alone):
    inputs = {"input_ids": counts(2, 1, 3, 1), "pixel_values": images(7)}
    expect_own_rows(adapted(images_in_reverse), alone, inputs, {"pixel_values": [3, 2, 2, 2, 1, 0, 0]})


def test_packed_inputs_are_refused(adapted):
    def body(toy, x, packed):
        return toy.linear(x) + packed.reshape(4, -1, 4).sum(1, keepdim=True)[: len(x)] * torch.ones(4, 1, 1)

    model = adapted(body)
    with pytest.raises(shim.RefusedError, match=r"do not divide by sample.*packed"):
        model(X, packed=torch.randn(12, 4, dtype=torch.float64), adapter_names=NAMES)


def test_images_beside_text_are_divided_anew_at_every_call(adapted, alone):
    model = adapted(images_in_text)
    for each in ((1, 1, 1, 1), (2, 0, 1, 1), (1, 1, 1, 1)):  # the same shapes, but the images are divided otherwise
        expect_own_rows(model, alone, {"input_ids": counts(*each), "pixel_values": images(4)}, owners=None)
