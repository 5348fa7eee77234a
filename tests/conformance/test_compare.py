import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conformance.compare import (
    EXACT,
    FLOAT64,
    Evidence,
    Inapplicable,
    Mismatch,
    Vacuous,
    compare_in_low_precision,
    compare_row,
    low_precision_error,
    relative_error,
    separation_of,
)

ROW = {"logits": torch.tensor([1.0, -2.0], dtype=torch.float64)}
OTHER = {"logits": torch.tensor([3.0, 0.5], dtype=torch.float64)}


def test_equal_tensors_have_no_error():
    assert relative_error(ROW["logits"], ROW["logits"].clone()) == 0.0


def test_the_error_is_relative_to_the_largest_value():
    assert relative_error(torch.tensor([0.0, 10.0]), torch.tensor([1.0, 10.0])) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("observed", "expected"),
    [
        (torch.ones(2), torch.ones(3)),
        (torch.ones(2), torch.ones(2).double()),
        (torch.tensor([1, 2]), torch.tensor([1, 3])),
        (torch.tensor([float("nan")]), torch.tensor([1.0])),
        (torch.tensor([1.0]), torch.tensor([float("nan")])),
        (torch.tensor([float("inf")]), torch.tensor([-float("inf")])),
        (torch.tensor([1e-30]), torch.tensor([0.0])),
        (torch.tensor([True]), torch.tensor([False])),
    ],
)
def test_what_is_not_comparable_is_infinitely_wrong(observed, expected):
    assert relative_error(observed, expected) == float("inf")


def test_nan_equals_nan_and_inf_equals_inf():
    odd = torch.tensor([float("nan"), float("inf"), 1.0])
    assert relative_error(odd, odd.clone()) == 0.0


@given(st.floats(1e-8, 1e-2))
def test_an_error_above_the_tolerance_is_a_mismatch(size):
    observed = {"logits": ROW["logits"] * (1 + size)}
    with pytest.raises(Mismatch, match=r"'logits' differs by .* \[row 0\]; observed .*, expected"):
        compare_row(observed, ROW, {"other": OTHER}, FLOAT64, "row 0")


def test_rounding_is_no_mismatch_in_float64_but_is_in_the_exact_tier():
    observed = {"logits": ROW["logits"] * (1 + 1e-14)}
    evidence = compare_row(observed, ROW, {"other": OTHER}, FLOAT64, "row 0")
    assert 0 < evidence.error < 1e-13
    with pytest.raises(Mismatch):
        compare_row(observed, ROW, {"other": OTHER}, EXACT, "row 0")


def test_a_mismatch_says_whose_answer_it_is():
    with pytest.raises(Mismatch, match="It is what 'other' would give"):
        compare_row(OTHER, ROW, {"other": OTHER}, FLOAT64, "row 0")


def test_a_missing_output_is_a_mismatch():
    with pytest.raises(Mismatch, match="'logits' is missing"):
        compare_row({}, ROW, {}, FLOAT64, "row 0")


@pytest.mark.parametrize("tier", [EXACT, FLOAT64])
def test_adapters_that_are_too_alike_make_a_comparison_vacuous(tier):
    with pytest.raises(Vacuous, match="the row differs from 'twin'"):
        compare_row(ROW, ROW, {"other": OTHER, "twin": dict(ROW)}, tier, "row 0")


def test_almost_alike_is_too_alike():
    twin = {"logits": ROW["logits"] * (1 + 1e-7)}  # a hundred times the tolerance, not a thousand
    with pytest.raises(Vacuous):
        compare_row(ROW, ROW, {"twin": twin}, FLOAT64, "row 0")


def test_one_output_that_tells_the_adapters_apart_is_power_enough():
    mine = {**ROW, "same": torch.ones(1, dtype=torch.float64)}
    theirs = {**OTHER, "same": torch.ones(1, dtype=torch.float64)}
    assert compare_row(mine, mine, {"other": theirs}, FLOAT64, "row 0").separation > 0.1


def test_evidence_adds_up_to_the_worst():
    total = Evidence(1e-12, 0.5) + Evidence(1e-15, 0.1)
    assert total == Evidence(1e-12, 0.1)


def test_a_run_in_low_precision_is_held_against_the_rows_alone():
    assert compare_in_low_precision(3e-3, 1e-3, 0.5, 1e-4, "bf16") == Evidence(3e-3, 0.5)
    with pytest.raises(Mismatch, match=r"5\.0e-03 from the float64 truth, but should be at most 4\.0e-03"):
        compare_in_low_precision(5e-3, 1e-3, 0.5, 1e-4, "bf16")
    with pytest.raises(Vacuous, match="rounding allows"):
        compare_in_low_precision(1e-3, 1e-3, 0.01, 1e-4, "bf16")


def test_the_error_of_a_run_is_that_of_its_worst_output():
    truth = {0: {**ROW, "more": OTHER["logits"]}, 1: {**OTHER, "more": OTHER["logits"]}}
    rows = {key: {path: value.float() for path, value in row.items()} for key, row in truth.items()}
    assert low_precision_error(rows, truth) < 1e-7
    rows[1]["more"] = rows[1]["more"] * 1.01
    assert low_precision_error(rows, truth) == pytest.approx(0.01 / 2**0.5, rel=1e-3)
    rows[0]["logits"] = rows[0]["logits"] * float("nan")
    with pytest.raises(Mismatch):
        compare_in_low_precision(low_precision_error(rows, truth), 1e-3, 1.0, 1e-7, "nan")


def test_outputs_without_a_floating_point_number_have_no_precision():
    with pytest.raises(Inapplicable, match="no output holds floating-point numbers"):
        low_precision_error({0: {"ids": torch.tensor([1])}}, {0: {"ids": torch.tensor([1])}})


def test_separation_is_that_of_the_nearest_other():
    near = {"logits": ROW["logits"] * 1.001}
    assert separation_of(ROW, {"far": OTHER, "near": near}) == pytest.approx(1e-3)


def test_equal_integers_and_booleans_have_no_error():
    assert relative_error(torch.tensor([1, 2]), torch.tensor([1, 2])) == 0.0
    assert relative_error(torch.tensor([True]), torch.tensor([True])) == 0.0


def test_equal_tensors_without_a_finite_value_have_no_error():
    assert relative_error(torch.tensor([float("nan")]), torch.tensor([float("nan")])) == 0.0


def test_the_error_is_relative_below_one_too():
    assert relative_error(torch.tensor([0.25]), torch.tensor([0.5])) == 0.5


def test_adapters_a_little_apart_are_apart_enough_where_rows_are_equal_bit_by_bit():
    near = {"logits": ROW["logits"] * (1 + 1e-6)}
    assert compare_row(ROW, ROW, {"near": near}, EXACT, "row 0").separation == separation_of(ROW, {"near": near})


def test_an_adapter_without_the_output_tells_nothing_apart():
    with pytest.raises(Vacuous):
        compare_row(ROW, ROW, {"other": {"hidden": OTHER["logits"]}}, FLOAT64, "row 0")
    assert separation_of(ROW, {}) == float("inf")


def test_a_mismatch_shows_the_values_and_whose_they_are_bit_by_bit_too():
    others = {"silent": {}, "other": OTHER}
    with pytest.raises(Mismatch) as found:
        compare_row(OTHER, ROW, others, EXACT, "row 0")
    assert str(found.value) == (
        "output 'logits' differs by 1.25e+00 (relative), but should by at most 0e+00 [row 0]; "
        "observed (2,) [3, 0.5], expected (2,) [1, -2]. It is what 'other' would give"
    )


@pytest.mark.parametrize(("size", "shown"), [(4, "(4,) [0, 1, 2, 3]"), (5, "(5,) [0, 1, 2, 3, …]")])
def test_a_mismatch_shows_four_values(size, shown):
    want = {"logits": torch.arange(float(size))}
    with pytest.raises(Mismatch) as found:
        compare_row({"logits": want["logits"] + 1}, want, {}, FLOAT64, "row 0")
    assert str(found.value).endswith(f"expected {shown}")


def test_what_is_allowed_in_low_precision_is_allowed_to_the_last_bit():
    assert compare_in_low_precision(4.0, 1.0, 40.0, 0.5, "bf16") == Evidence(4.0, 40.0)


@pytest.mark.parametrize("path", ["a", "b"])
def test_an_output_that_is_no_number_is_the_worst_wherever_it_stands(path):
    truth = {0: {"a": ROW["logits"], "b": OTHER["logits"]}}
    rows = {0: {**truth[0], path: truth[0][path] * float("nan")}}
    assert low_precision_error(rows, truth) != low_precision_error(rows, truth)  # nan
