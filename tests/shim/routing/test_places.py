"""Outputs that have no row for each sample: served where the samples lie in their places, refused where they do not."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

import shim
from shim.routing.places import in_even_places, in_order
from tests.shim.routing.rows_alone import NAMES, samples


def shifted(h):
    """Each place gets what stood before it along the second dimension, the first nothing."""
    return F.pad(h, (0, 0, 1, 0))[:, :-1]


OUT_OF_PLACE = {
    "time-major, shifted": lambda toy, x: shifted(toy.linear(x).transpose(0, 1)),
    "time-major, rolled": lambda toy, x: toy.linear(x).transpose(0, 1).roll(1, 1),
    "time-major, one for another": lambda toy, x: toy.linear(x).transpose(0, 1)[:, [1, 0, 2, 3]],
    "flat, shifted": lambda toy, x: shifted(toy.linear(x).reshape(1, -1, 4)),
    "flat, rolled": lambda toy, x: toy.linear(x).reshape(-1, 4).roll(1, 0),
    "flat, cut short": lambda toy, x: toy.linear(x).reshape(-1, 4)[:-1],
    "tiles, shifted": lambda toy, x: shifted(toy.linear(x).transpose(0, 1).reshape(1, -1, 4)),
    "tiles, flipped": lambda toy, x: toy.linear(torch.cat([x, x]).flip(0)),
    "beams, one for another": lambda toy, x: toy.linear(x).repeat_interleave(2, 0)[[2, 1, 0, 3, 4, 5, 6, 7]],
    "one sample's": lambda toy, x: toy.linear(x)[1],
    "a number of one sample": lambda toy, x: toy.linear(x)[1].sum(),
}


@pytest.mark.parametrize("body", OUT_OF_PLACE.values(), ids=OUT_OF_PLACE)
def test_a_sample_in_anothers_place_is_refused(body, adapted):
    with pytest.raises(shim.RefusedError):
        adapted(lambda toy, x: {"rows": toy.linear(x), "other": body(toy, x)})(
            samples(4, length=6), adapter_names=NAMES
        )


SAID = {
    "time-major, rolled": r"output 'output' of shape \(6, 4, 4\) holds a sample in another's place",
    "one sample's": r"output 'output' of shape \(6, 4\) holds nothing of sample 0",
}


@pytest.mark.parametrize(("case", "said"), SAID.items(), ids=SAID)
def test_what_stands_in_the_way_is_said(case, said, adapted):
    shim.install(fallback="refuse")
    with pytest.raises(shim.RefusedError, match=said):
        adapted(OUT_OF_PLACE[case])(samples(4, length=6), adapter_names=NAMES)


IN_PLACE = {
    "time-major": lambda toy, x: toy.linear(x).transpose(0, 1),
    "time-major, one token more": lambda toy, x: F.pad(toy.linear(x).transpose(0, 1), (0, 0, 0, 0, 1, 0)),
    "flat": lambda toy, x: toy.linear(x).reshape(1, -1, 4),
    "tokens as rows": lambda toy, x: toy.linear(x).reshape(-1, 4),
    "windows": lambda toy, x: toy.linear(x).reshape(2 * len(x), -1, 4),
    "tiles": lambda toy, x: toy.linear(torch.cat([x, 2 * x])),
    "beams": lambda toy, x: toy.linear(x).repeat_interleave(3, 0),
    "windows of tiles": lambda toy, x: toy.linear(torch.cat([x, 2 * x]).reshape(4 * len(x), -1, 4)),
    "by twos": lambda toy, x: toy.linear(x).reshape(2, len(x) // 2, -1, 4),
    "a layer each": lambda toy, x: torch.stack([toy.linear(x), toy.linear(2 * x)]),
}


@pytest.mark.parametrize("body", IN_PLACE.values(), ids=IN_PLACE)
def test_samples_in_their_places_go_in_one_pass(body, adapted, alone):
    model, x = adapted(lambda toy, x: {"rows": toy.linear(x), "other": body(toy, x)}), samples(4)
    assert shim.explain(model, {"x": x}, NAMES).route == "one pass"
    mixed = model(x, adapter_names=NAMES)["other"]
    for row, name in enumerate(NAMES):
        own = elements_of(row, model, alone, x)
        assert own.sum() > x[row].numel() / 2
        assert (mixed - alone(model, name, x)["other"])[own].abs().max() < 1e-12
        for other in set(NAMES) - {name}:
            assert (mixed - alone(model, other, x)["other"])[own].abs().max() > 1e-4, "the adapters are too alike"


def elements_of(row, model, alone, x):
    """Which elements of the output are others where the sample `row` is another."""
    others = x.clone()
    others[row] += 1
    return alone(model, "ann", x)["other"] != alone(model, "ann", others)["other"]


PACKED = {"pixel_values": [0, 0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3]}
PACKED_IN_PLACE = {
    "a row each": lambda h: h,
    "merged by twos": lambda h: h.unflatten(0, (-1, 2)).sum(1),
    "two of each": lambda h: h.repeat_interleave(2, 0),
    "along the second dimension": lambda h: h.t()[:3],
    "in chunks": lambda h: h[:, :3].unflatten(0, (2, 6)),
    "in chunks that lie side by side": lambda h: h[:, :3].unflatten(0, (2, 6)).transpose(1, 2),
    "some of each": lambda h: h[[0, 2, 4, 5, 7, 8, 11]],
    "something else before each": lambda h: torch.cat([torch.ones_like(h[:1]), h]),
}


@pytest.mark.parametrize("body", PACKED_IN_PLACE.values(), ids=PACKED_IN_PLACE)
def test_packed_samples_of_any_size_go_in_one_pass_in_their_order(body, adapted):
    model = adapted(lambda toy, x, pixel_values: {"rows": toy.linear(x), "other": body(toy.linear(pixel_values))})
    inputs = {"x": samples(4), "pixel_values": torch.randn(12, 4, dtype=torch.float64)}
    assert shim.explain(model, inputs, NAMES, owners=PACKED).route == "one pass"


PACKED_OUT_OF_PLACE = {
    "rolled": lambda h: h.roll(1, 0),
    "each row at the next one's place": lambda h: shifted(h[None])[0],
    "cut short, and filled up": lambda h: F.pad(h[1:], (0, 0, 0, 1)),
    "rows at the next one's place, by twos": lambda h: shifted(h[None])[0].unflatten(0, (-1, 2)).sum(1),
    "two of a row, shifted": lambda h: shifted(h.repeat_interleave(2, 0)[None])[0],
}


@pytest.mark.parametrize("body", PACKED_OUT_OF_PLACE.values(), ids=PACKED_OUT_OF_PLACE)
def test_packed_samples_in_anothers_place_are_refused(body, adapted):
    model = adapted(lambda toy, x, pixel_values: {"rows": toy.linear(x), "other": body(toy.linear(pixel_values))})
    inputs = {"x": samples(4), "pixel_values": torch.randn(12, 4, dtype=torch.float64)}
    with pytest.raises(shim.RefusedError):
        model(**inputs, adapter_names=NAMES, owners=PACKED)


def test_an_output_of_no_elements_holds_no_sample(adapted):
    model = adapted(lambda toy, x: {"rows": toy.linear(x), "other": toy.linear(x).reshape(-1, 4)[:0]})
    assert shim.explain(model, {"x": samples(4)}, NAMES).route == "one pass"


@given(
    data=st.data(), count=st.integers(2, 4), tiles=st.integers(1, 3), block=st.integers(1, 3), seed=st.integers(0, 99)
)
def test_blocks_and_tiles_are_even_and_two_samples_exchanged_are_not(data, count, tiles, block, seed):
    order = torch.arange(1, count + 1)
    line = order.repeat_interleave(block).repeat(tiles)
    shape = data.draw(st.sampled_from([(-1, 1), (1, -1), (-1, 1, 1)]))
    owner = line.view(shape).expand([3 if size == 1 else -1 for size in shape])
    assert in_even_places(owner, order)
    assert in_even_places(owner * (torch.rand(owner.shape, generator=torch.Generator().manual_seed(seed)) > 0.3), order)
    exchanged = line.clone()
    one = data.draw(st.integers(0, len(line) - 1))
    other = data.draw(st.sampled_from([place for place in range(len(line)) if line[place] != line[one]]))
    exchanged[[one, other]] = line[[other, one]]
    # Two samples' places exchanged may be another layout: 1 2 1 2 is two tiles, 1 1 2 2 blocks of two.
    per = tiles * block
    layouts = [order.repeat_interleave(b).repeat(per // b) for b in range(1, per + 1) if per % b == 0]
    is_another = any(map(exchanged.equal, layouts))
    assert in_even_places(exchanged.view(shape).expand(owner.shape), order) is is_another


ORDERS = {
    (1, 1, 2, 3, 3): True,
    (1, 3): True,
    (2, 3, 2, 3): True,
    (1, 2, 3, 1, 1, 2, 3): True,
    (0, 2, 0): True,
    (2, 1): False,
    (3, 1, 2): False,
    (1, 2, 3, 1, 3, 2): False,
    (1, 2, 3, 2, 3): False,
}


@pytest.mark.parametrize(("line", "expected"), ORDERS.items(), ids=map(str, ORDERS))
def test_shares_of_any_size_are_held_against_the_order_of_the_batch(line, expected):
    order, owner = torch.arange(1, 7), torch.tensor(line, dtype=torch.int64)
    assert in_order(owner, order, []) is expected
    assert in_order(owner, order, [owner])  # or of an input


@pytest.mark.parametrize("line", [(0, 1, 2), (1, 1, 3), (0, 1, 1)])
def test_an_entry_a_sample_is_asked_of_a_dimension_as_long_as_the_batch(line):
    order, owner = torch.arange(1, 4), torch.tensor(line).expand(5, 3)
    assert not in_order(owner, order, [])
    assert in_order(owner, order, [owner[0]])
    assert in_order(torch.tensor([0, 2, 3]).expand(5, 3), order, [])


def test_lengths_tell_of_the_longest_input_only():
    """RADIO adds ten tokens to each image's patches: 120 for 80 patches of four images is not thirty for each."""
    order, images = torch.arange(1, 4), torch.tensor([1, 2, 2, 3])
    patches, tokens = (order.repeat_interleave(torch.tensor(counts)) for counts in ([16, 48, 16], [26, 68, 26]))
    assert in_order(tokens.view(-1, 1), order, [patches, images])
    assert in_order(images, order, [patches, images])
    assert not in_order(patches.roll(1), order, [patches, images])
    assert not in_order(images[[1, 0, 2, 3]], order, [patches, images])


def test_an_input_of_one_sample_is_no_packed_one():
    """Idefics3's features come in a list, one tensor for each sample."""
    order, images = torch.arange(1, 4), torch.tensor([1, 1, 2, 3])
    alone = [torch.full((count,), sample) for sample, count in ((1, 8), (2, 4), (3, 4))]
    assert in_order(images.repeat_interleave(4), order, [images, *alone])
    assert not in_order(images.repeat_interleave(4).roll(1), order, [images, *alone])
