"""How a check's end becomes a verdict; above all, that nothing but a shown clause passes."""

import pytest

import shim
from conformance.checks.check import Check, has_rows
from conformance.compare import Declined, Evidence, Inapplicable, Mismatch, Vacuous
from conformance.examination import examine
from conformance.models import MODELS
from conformance.oracle import NotBatchable
from conformance.scenarios import Draws
from conformance.settings import Settings
from conformance.verdict import Outcome

INTEGERS = MODELS["integers"]


def verdict(function, applies=has_rows, **settings):
    return examine(INTEGERS, Check("stand_in", ("R1",), function, Draws(), applies), Settings(**settings))


def raising(error):
    def function(case):
        raise error

    return function


def test_scenarios_without_power_are_drawn_anew_so_often_and_no_oftener():
    ends = [Vacuous("too alike")] * 49
    assert verdict(in_turns(*ends, Evidence(), Evidence()), examples=2).outcome is Outcome.PASS
    seen = []

    def function(case):
        seen.append(case)
        raise Vacuous("too alike")

    assert verdict(function, examples=2).outcome is Outcome.VACUOUS
    assert 50 <= len(seen) <= 52  # Hypothesis runs its last one again


def test_evidence_from_every_example_passes():
    found = verdict(lambda case: Evidence(1e-12, 0.5), examples=4)
    assert (found.outcome, found.examples, found.error, found.separation) == (Outcome.PASS, 4, 1e-12, 0.5)
    assert found.reproduction is None


@pytest.mark.parametrize(
    ("error", "outcome", "word"),
    [
        (Mismatch("is 3, but should be 4"), Outcome.FAIL, "is 3, but should be 4"),
        (Vacuous("too alike"), Outcome.VACUOUS, "too alike"),
        (NotBatchable("rows depend"), Outcome.ERROR, "rows depend"),
        (Inapplicable("no bfloat16"), Outcome.SKIPPED, "no bfloat16"),
        (Declined("not for several rows"), Outcome.REFUSED, "not for several rows"),
        (shim.RefusedError("layer x"), Outcome.REFUSED, "layer x"),
        (ValueError("upstream's own"), Outcome.FAIL, "raised ValueError: upstream's own"),
        (shim.UnknownAdapterError("nobody"), Outcome.FAIL, "nobody"),
    ],
)
def test_an_error_becomes_its_verdict(error, outcome, word):
    found = verdict(raising(error))
    assert found.outcome is outcome
    assert word in found.detail
    assert found.raised is found.detail.startswith("raised ")
    assert bool(found.reproduction) is (outcome in (Outcome.FAIL, Outcome.ERROR, Outcome.VACUOUS))


def in_turns(*ends):
    """Return a check that ends so on one scenario after the other."""
    left = list(ends)

    def function(case):
        end = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(end, BaseException):
            raise end
        return end

    return function


@pytest.mark.parametrize(
    ("ends", "outcome"),
    [
        ((shim.RefusedError("two rows"), Mismatch("three are wrong")), Outcome.FAIL),
        ((shim.RefusedError("two rows"), Evidence(0.0, 0.5)), Outcome.REFUSED),
        ((Evidence(0.0, 0.5), shim.RefusedError("three rows")), Outcome.REFUSED),
        ((Inapplicable("an embedding"), Mismatch("a linear layer is wrong")), Outcome.FAIL),
        ((Inapplicable("an embedding"), Evidence(0.0, 0.5)), Outcome.PASS),
        ((Inapplicable("an embedding"), Vacuous("too alike")), Outcome.VACUOUS),
        ((Vacuous("too alike"), *[Inapplicable("an embedding")] * 9, Evidence(0.0, 0.5)), Outcome.PASS),
    ],
)
def test_neither_a_refusal_nor_what_does_not_apply_hides_what_comes_after(ends, outcome):
    assert verdict(in_turns(*ends), examples=3).outcome is outcome


def test_a_mismatch_that_reads_like_an_error_is_none():
    found = verdict(raising(Mismatch("raised None, but should raise an error")))
    assert (found.outcome, found.raised) == (Outcome.FAIL, False)


def test_what_is_refused_is_not_called_unbatchable(monkeypatch):
    """No reference is to be had of it, and none is needed."""

    def refuse(case):
        raise shim.RefusedError("output 'sim' mixes samples")

    monkeypatch.setattr("conformance.case.Case.mixed", refuse)
    found = verdict(raising(NotBatchable("rows depend")))
    assert (found.outcome, found.detail) == (Outcome.REFUSED, "output 'sim' mixes samples")


def test_a_check_without_power_on_every_scenario_never_passes():
    assert verdict(raising(Vacuous("alike"))).outcome.fails_the_run


def test_scenarios_without_power_are_drawn_again():
    calls = []

    def every_second(case):
        calls.append(case.scenario)
        if len(calls) % 2:
            raise Vacuous("alike")
        return Evidence(0.0, 1.0)

    found = verdict(every_second, examples=3)
    assert found.outcome is Outcome.PASS
    assert found.examples == 3
    assert len(calls) >= 6


def test_one_failing_scenario_fails_the_check():
    def on_three_rows(case):
        if len(case.rows) >= 3:
            raise Mismatch("three rows")
        return Evidence()

    found = verdict(on_three_rows, examples=20)
    assert found.outcome is Outcome.FAIL
    assert "rows=(" in found.reproduction


def test_a_failure_is_made_small_where_that_is_asked_for():
    def on_three_rows(case):
        if len(case.rows) >= 3:
            raise Mismatch("three rows")
        return Evidence()

    found = verdict(on_three_rows, examples=20, shrink=True)
    assert "rows=('ann', '__base__', 'ann')" in found.reproduction


def test_a_check_that_does_not_apply_is_skipped():
    found = verdict(raising(AssertionError), applies=lambda model: False)
    assert found.outcome is Outcome.SKIPPED


def test_an_interrupt_is_not_a_verdict():
    with pytest.raises(KeyboardInterrupt):
        verdict(raising(KeyboardInterrupt()))


def test_the_same_settings_give_the_same_scenarios_and_another_seed_gives_others():
    def seen(**settings):
        drawn = []

        def function(case):
            drawn.append(case.scenario)
            return Evidence()

        verdict(function, **settings)
        return drawn

    assert seen() == seen()
    assert seen(seed=1) == seen(seed=1)
    assert len({tuple(seen()), tuple(seen(seed=1)), tuple(seen(seed=2))}) == 3


def test_a_verdict_survives_its_record():
    from conformance.verdict import Verdict

    found = verdict(raising(Mismatch("wrong")))
    assert Verdict.from_record({**found.to_record(), "unknown": 1}) == found
