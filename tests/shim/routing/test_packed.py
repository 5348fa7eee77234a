"""Packed inputs of which nobody said whose rows they are: a forward of the base model shows it, or they are refused."""

import pytest
import torch

import shim
from shim.routing.one_pass import NotByLayers
from tests.shim.routing.test_packed_split import (
    NAMES,
    counts,
    expect_own_rows,
    images,
    images_in_reverse,
    images_in_text,
)


@pytest.mark.usefixtures("split_only")
@pytest.mark.parametrize("each", [(2, 1, 3, 1), (2, 0, 1, 1), (1, 1, 1, 1), (4, 0, 0, 0)])
def test_a_split_finds_whose_the_rows_are(adapted, alone, each):
    model, inputs = adapted(images_in_text), {"input_ids": counts(*each), "pixel_values": images(sum(each))}
    expect_own_rows(model, alone, inputs, owners=None)


@pytest.mark.usefixtures("split_only")
def test_sizes_that_are_joined_with_every_image_claim_none(adapted, alone):
    def scaled_by_sizes(toy, input_ids, pixel_values, sizes):
        return images_in_text(toy, input_ids, pixel_values * (sizes.amax(0) / sizes.amax(0)))

    inputs = {"input_ids": counts(2, 1, 3, 1), "pixel_values": images(7), "sizes": torch.ones(4, 4, dtype=torch.long)}
    expect_own_rows(adapted(scaled_by_sizes), alone, inputs, owners=None)


def test_a_split_that_finds_them_is_explained(adapted, monkeypatch):
    def unroutable(*_):
        raise NotByLayers("one pass is switched off")

    monkeypatch.setattr("shim.routing.explain.check_methods", unroutable)
    inputs = {"input_ids": counts(2, 1, 3, 1), "pixel_values": images(7)}
    assert shim.explain(adapted(images_in_text), inputs, NAMES).route == "split"
    assert shim.explain(adapted(images_by_value), inputs, NAMES).route == "refuse"


def images_by_value(toy, input_ids, pixel_values):
    """Which images come into a sample is decided by values that Python reads."""
    if int(input_ids.sum()) != len(pixel_values):
        raise ValueError("image tokens and images do not match")
    total = sum(sum(row) for row in pixel_values.tolist())
    return toy.linear(input_ids + total * torch.ones(4, dtype=torch.float64))


def all_images_in_each(toy, input_ids, pixel_values):
    if int(input_ids.sum()) != len(pixel_values):
        raise ValueError("image tokens and images do not match")
    return toy.linear(input_ids + pixel_values.sum(0))


@pytest.mark.usefixtures("split_only")
@pytest.mark.parametrize("body", [images_by_value, all_images_in_each])
def test_rows_that_no_sample_claims_are_refused_with_the_way_out(adapted, body):
    inputs = {"input_ids": counts(2, 1, 3, 1), "pixel_values": images(7)}
    with pytest.raises(shim.RefusedError, match=r"do not divide by sample.*pixel_values.*owners=\{…\}"):
        adapted(body)(**inputs, adapter_names=NAMES)


@pytest.mark.usefixtures("split_only")
@pytest.mark.parametrize("each", [(2, 1, 3, 1), (1, 1, 1, 1)])
def test_rows_that_are_claimed_in_another_order_are_refused_by_a_split(adapted, each):
    inputs = {"input_ids": counts(*each), "pixel_values": images(sum(each))}
    with pytest.raises(shim.RefusedError, match=r"one adapter a call"):
        adapted(images_in_reverse)(**inputs, adapter_names=NAMES)


def pairs_added(toy, input_ids, pixel_values, order=1):
    """Sample i has images 2i and 2i + 1, or those of the other end."""
    rows = toy.linear(pixel_values).view(-1, 2, 4).sum(1)
    return input_ids + (rows if order == 1 else rows.flip(0))


def test_packed_rows_go_in_one_pass_where_they_come_in_the_samples_order(adapted, alone):
    inputs = {"input_ids": counts(2, 1, 3, 1), "pixel_values": images(8)}
    assert shim.explain(adapted(pairs_added), inputs, NAMES).route == "one pass"
    expect_own_rows(adapted(pairs_added), alone, inputs, owners=None)
    mirrored = {**inputs, "order": -1}
    with pytest.raises(shim.RefusedError, match=r"'pixel_values' come out in another order of samples, \[3, 2, 1, 0\]"):
        adapted(pairs_added)(**mirrored, adapter_names=NAMES)
    expect_own_rows(adapted(pairs_added), alone, mirrored, owners={"pixel_values": [3, 3, 2, 2, 1, 1, 0, 0]})
