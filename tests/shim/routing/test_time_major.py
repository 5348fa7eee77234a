"""As many tokens as samples: which dimension is the samples', one sample's output tells."""

import pytest

import shim
from tests.shim.routing.rows_alone import NAMES, check_samples, samples


def unfolded_otherwise(toy, x):
    """Transposed, and divided by sample again as if it were not: right for one sample, mixed for several."""
    return toy.linear(x).transpose(0, 1).reshape(len(x), -1, 4)


def time_major(toy, x):
    return toy.linear(x).transpose(0, 1)


def of_several(toy, x):
    if len(x) == 1:
        raise ValueError("no batch of one")
    return toy.linear(x).transpose(0, 1)


@pytest.mark.parametrize("length", [3, 4, 5])
def test_samples_that_are_mixed_are_refused_at_any_length(adapted, length):
    with pytest.raises(shim.RefusedError):
        adapted(unfolded_otherwise)(samples(4, length=length), adapter_names=NAMES)


def test_what_stands_in_the_way_is_said(adapted):
    shim.install(fallback="refuse")
    with pytest.raises(shim.RefusedError, match=r"shape \(4, 4, 4\) holds its samples along dim 1, .* \(1, 4, 4\)"):
        adapted(unfolded_otherwise)(samples(4, length=4), adapter_names=NAMES)


@pytest.mark.parametrize("length", [3, 4, 5])
def test_samples_along_another_dimension_go_in_one_pass(adapted, alone, length):
    model, x = adapted(time_major), samples(4, length=length)
    assert shim.explain(model, {"x": x}, NAMES).route == "one pass"
    check_samples(model, alone, x, NAMES, dim=1)


def test_one_sample_that_does_not_run_shows_nothing(adapted):
    with pytest.raises(shim.RefusedError, match="one sample does not run by itself: ValueError: no batch of one"):
        adapted(of_several)(samples(4, length=4), adapter_names=NAMES)


def test_rows_along_the_first_dimension_need_no_other_run(adapted, alone):
    lengths = []

    def noted(toy, x):
        lengths.append(len(x))
        return toy.linear(x)

    check_samples(adapted(noted), alone, samples(4, length=4), NAMES)
    assert lengths[:2] == [4, 4]  # a trace, and the call
