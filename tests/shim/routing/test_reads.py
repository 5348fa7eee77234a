"""What Python reads of the inputs: plans that hang on it serve no other call."""

import pytest
import torch

import shim
from shim.routing.reads import Reads, decider_of_size, read_of, read_of_size
from tests.shim.routing.rows_alone import NAMES, X

IDS = torch.tensor([1, 2, 3, 4], dtype=torch.int32)
LENGTHS = torch.tensor([3, 1, 2, 2])


@pytest.mark.parametrize(
    ("tensor", "ids", "read"),
    [
        (LENGTHS, IDS, Reads.WORKED_OUT),
        (LENGTHS[0], IDS[0], Reads.WORKED_OUT),
        (LENGTHS[0].clone(), IDS[0], Reads.WORKED_OUT),  # the second sample's, say, and so one after the other
        (LENGTHS.argsort()[0], IDS[0] * 0, Reads.WORKED_OUT),  # of all samples, among others
        (LENGTHS.max(), IDS[0] * 0, Reads.NUMBERS),
        (LENGTHS.max(), None, Reads.NUMBERS),
        (LENGTHS.double().max(), None, Reads.NOTHING),
        ((LENGTHS > 1).all(), None, Reads.NOTHING),
        ((LENGTHS > 1)[0], IDS[0], Reads.WORKED_OUT),
    ],
)
def test_what_is_of_one_sample_or_among_others_is_more_than_a_number(tensor, ids, read):
    assert read_of(tensor, "item", ids, 4, is_given=False) is read


def test_integers_of_an_input_are_values_of_it():
    assert read_of(LENGTHS, "tolist", IDS, 4, is_given=True) is Reads.VALUES
    assert read_of(LENGTHS.double()[0], "item", IDS[0], 4, is_given=True) is Reads.WORKED_OUT


def test_a_single_sample_has_no_order_and_a_verdict_gives_none():
    assert read_of(LENGTHS, "tolist", IDS, 1, is_given=False) is Reads.NUMBERS
    assert read_of(LENGTHS.double(), "allclose", IDS, 4, is_given=False) is Reads.NOTHING


def masks(lengths):
    return torch.arange(3)[None] < lengths[:, None]


WAYS = {
    "tolist": lambda lengths: lengths.tolist(),
    "one_by_one": lambda lengths: [int(length) for length in lengths],
    "numpy": lambda lengths: list(lengths.numpy()),
    "bools": lambda lengths: (lengths > 2).tolist(),
    "floats_one_by_one": lambda lengths: [float(length) for length in lengths.double()],
    "branches": lambda lengths: [1 if row.sum() > 2 else 0 for row in lengths.view(-1, 1)],
    "sizes": lambda lengths: [len(row.nonzero()) for row in masks(lengths)],
    "sizes_of_parts": lambda lengths: [torch.arange(3)[row].shape[0] for row in masks(lengths)],
    "sizes_selected": lambda lengths: [torch.arange(3).masked_select(row).numel() for row in masks(lengths)],
    "sizes_repeated": lambda lengths: [len(torch.repeat_interleave(length)) for length in lengths.view(-1, 1)],
    "an_order": lambda lengths: (-lengths).argsort(stable=True).argsort().neg().tolist(),
    "an_order_one_by_one": lambda lengths: [-int(place) for place in (-lengths).argsort(stable=True).argsort()],
}


@pytest.mark.parametrize("fallback", ["split", "refuse"])
@pytest.mark.parametrize("way", WAYS)
def test_rows_that_python_sorts_are_right_after_a_batch_that_was_in_order(adapted, alone, way, fallback):
    """As models for recurrent layers do: the plan of a first batch in order had each row take another's adapter."""

    def body(toy, x, lengths):
        keys = WAYS[way](lengths)
        order = sorted(range(len(x)), key=lambda row: -keys[row])
        return toy.linear(x[order])[[order.index(row) for row in range(len(x))]]

    shim.install(fallback=fallback)
    model = adapted(body)
    for lengths in ([3, 3, 3, 3], [1, 2, 3, 2], [3, 3, 3, 3], [2, 3, 1, 3]):
        given = {"x": X, "lengths": torch.tensor(lengths)}
        with torch.no_grad():
            mixed = model(**given, adapter_names=NAMES)
        for row, name in enumerate(NAMES):
            torch.testing.assert_close(mixed[row], alone(model, name, **given)[row], rtol=1e-9, atol=1e-12)
    explained = shim.explain(model, given, NAMES)
    assert explained.route == "one pass"
    assert bool(explained.reason) == (way not in ("tolist", "one_by_one", "numpy"))


def test_a_number_of_the_whole_batch_does_not_cost_a_trace_for_each_of_its_values(adapted):
    calls = []

    def body(toy, x, lengths):
        calls.append(int(lengths.max()))
        return toy.linear(x) if bool((lengths > 0).all()) else toy.linear(x) * 1.0

    model = adapted(body)
    for most in (3, 4, 5):
        model(x=X, lengths=torch.full((4,), most), adapter_names=NAMES)
    assert calls == [3, 3, 4, 5]


def test_what_decides_the_size_of_an_output_is_told_by_the_operation():
    mask, x = LENGTHS > 1, LENGTHS.double()
    assert decider_of_size("nonzero", (mask,)) is mask
    assert decider_of_size("masked_select", (x, mask)) is mask
    assert decider_of_size("repeat_interleave", (x, LENGTHS)) is LENGTHS
    assert decider_of_size("repeat_interleave", (LENGTHS,)) is LENGTHS
    assert decider_of_size("repeat_interleave", (x, 2)) is None
    assert decider_of_size("index", (x, [None, mask])) is mask
    assert decider_of_size("index", (x, [LENGTHS])) is None
    assert decider_of_size("add", (x, x)) is None


def test_the_size_of_one_samples_part_is_its_own_and_that_of_the_batch_nobodys():
    assert read_of_size(LENGTHS, IDS, 4) is Reads.NOTHING
    assert read_of_size(LENGTHS[:1], IDS[:1], 4) is Reads.WORKED_OUT
    assert read_of_size(LENGTHS[:1], IDS[:1], 1) is Reads.NOTHING
    assert read_of_size(LENGTHS[:1], None, 4) is Reads.NOTHING
