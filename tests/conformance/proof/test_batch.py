"""What is run, in which order, and what the runs of a batch come to."""

import os

from conformance.proof.batch import SEEDS_AT_ONCE, Batch, batches, run, tallied
from conformance.proof.fault import FAULTS, Fault, nothing
from conformance.proof.tally import Proof, Tally
from conformance.settings import Settings
from conformance.verdict import Outcome, Verdict

SETTINGS = Settings(examples=2)
EMPTY = Proof({}, ())
SOME = {name: Fault(name, nothing, "a_check", model) for name, model in (("one", "m"), ("two", "m"), ("three", "n"))}


def tally(end, fault="one", model="m"):
    return Tally(fault, "a_check", model, "", (), 0, end, end)


def test_all_faults_have_some_seeds_before_any_has_more():
    todo = [one for one in batches(SOME, SEEDS_AT_ONCE + 5, 1, SETTINGS, EMPTY) if one.planted]
    assert [one.fault for one in todo] == ["one", "two", "three"] * 2
    assert {(one.begin, one.end) for one in todo[3:]} == {(SEEDS_AT_ONCE, SEEDS_AT_ONCE + 5)}


def test_the_correct_models_are_run_until_there_are_scenarios_enough_and_once_for_each_place():
    clean = [one for one in batches(SOME, 1, 41, SETTINGS, EMPTY) if not one.planted]
    assert {one.fault for one in clean} == {"one", "three"}
    assert sum((one.end - one.begin) * SETTINGS.examples for one in clean) in range(41, 45)


def test_what_is_done_is_not_run_again():
    todo = batches(SOME, 4, 1, SETTINGS, Proof({}, (tally(3), tally(4, "two"), tally(1, ""))))
    assert [(one.fault, one.planted, one.begin) for one in todo] == [
        ("one", True, 3), ("three", True, 0), ("three", False, 0),
    ]  # fmt: skip


def test_a_fault_is_caught_by_its_owner_alone(toys):
    caught, unseen, clean = (
        tallied(Batch(name, planted, 0, 2, SETTINGS))
        for name, planted in (
            ("the_names_are_read_backwards", True),
            ("nothing_at_all", True),
            ("nothing_at_all", False),
        )
    )
    assert (caught.right, caught.wrong, caught.clauses) == (2, (), ("R1", "R7"))
    assert "differs by" in caught.said
    assert [seed for seed, why in unseen.wrong if why == "pass: "] == [0, 1]
    assert (clean.fault, clean.right, clean.scenarios) == ("", 2, 4)


def test_a_run_that_dies_has_caught_nothing(toys):
    def die(fault, settings, planted):
        os._exit(3)

    found = tallied(Batch("nothing_at_all", True, 0, 1, SETTINGS), die)
    assert (found.right, found.wrong) == (0, ((0, "error: the run exited with 3"),))


def test_another_outcome_than_the_faults_is_no_catch(toys):
    def vacuous(fault, settings, planted):
        return Verdict("integers", "a_check", (), Outcome.VACUOUS, f"seed {settings.seed}")

    batch = Batch("nothing_at_all", True, 5, 6, SETTINGS)
    assert tallied(batch, vacuous).wrong == ((5, "vacuous: seed 5"),)
    FAULTS["nothing_at_all"] = Fault(
        "nothing_at_all", nothing, "each_row_equals_its_own_run", "integers", outcome=Outcome.VACUOUS
    )
    assert tallied(batch, vacuous).right == 1


def test_a_fault_of_the_suite_is_caught_by_its_test(toys):
    here = "tests/conformance/proof/test_fault.py::test_a_package_that_is_not_there_cannot_be_loaded"

    def plant(patch):
        import conformance.proof.fault

        patch.setattr(conformance.proof.fault, "load", lambda package: {})

    FAULTS["loads_anything"] = Fault("loads_anything", plant, here)
    clean, planted = (tallied(Batch("loads_anything", fault, 0, 1, SETTINGS)) for fault in (False, True))
    assert (clean.right, clean.scenarios) == (1, 0), clean.wrong
    assert planted.right == 1, planted.wrong
    assert "DID NOT RAISE" in planted.said


def test_without_work_nothing_is_begun():
    assert list(run([], "no.such.package", 4)) == []
