"""Defects in the suite itself: what lets wrong answers pass, and what makes a comparison show nothing."""

import conformance.case
import conformance.compare
import conformance.oracle
import conformance.subject
from conformance.compare import Mismatch, Tier
from conformance.verdict import Outcome
from tests.faults.planted import fault

COMPARE = "tests/conformance/test_compare.py::"
ORACLE = "tests/conformance/test_oracle.py::"


@fault(COMPARE + "test_an_error_above_the_tolerance_is_a_mismatch")
def the_tolerance_is_too_wide(patch):
    patch.setattr(conformance.compare, "FLOAT64", Tier(1e-7))


@fault(COMPARE + "test_almost_alike_is_too_alike")
def a_vacuous_comparison_counts(patch):
    patch.setattr(conformance.compare.Tier, "least_separation", property(lambda tier: 0.0))


@fault(COMPARE + "test_what_is_not_comparable_is_infinitely_wrong")
def nan_is_as_good_as_any_number(patch):
    original = conformance.compare.relative_error

    def relative_error(observed, expected):
        return 0.0 if bool((observed != observed).any()) else original(observed, expected)

    patch.setattr(conformance.compare, "relative_error", relative_error)


@fault(ORACLE + "test_a_model_whose_rows_depend_on_each_other_is_not_believed")
def the_oracles_references_are_not_held_together(patch):
    patch.setattr(conformance.oracle, "relative_error", lambda observed, expected: 0.0)


@fault(ORACLE + "test_a_wrong_row_is_a_mismatch_whatever_the_suite_is_told")
def the_first_row_only_is_compared(patch):
    original = conformance.case.Case.expect_rows
    patch.setattr(
        conformance.case.Case, "expect_rows", lambda case, output, names, *more: original(case, output, names, [0])
    )


@fault("tests/conformance/test_examination.py::test_one_failing_scenario_fails_the_check")
def a_failing_scenario_is_drawn_again(patch):
    import conformance.examination

    patch.setattr(conformance.examination, "Vacuous", (conformance.compare.Vacuous, Mismatch))


@fault("integers", "each_row_equals_its_own_run", outcome=Outcome.VACUOUS)
def the_adapters_are_all_alike(patch):
    original = conformance.subject.fill

    def fill(wrapped, adapter, seed, integer):
        original(wrapped, adapter, seed, integer)
        for path, parameter in wrapped.named_parameters():
            if conformance.subject.owns(adapter, path) and "modules_to_save" not in path:
                parameter.data.zero_()

    patch.setattr(conformance.subject, "fill", fill)
