"""Words resolve to what they name: near names are offered, what applies to nothing is said, only today's counts."""

import pytest

from conformance.checks import CHECKS
from conformance.selection import Choice, UnknownChoiceError, chosen_checks, chosen_models, inapplicable
from conformance.shards import Shard
from conformance.verdict import Outcome, Verdict

OWN = "own:tests.conformance.own_models:module"
ORDER, BASE = "reordering_rows_reorders_outputs", "base_rows_equal_the_base_model"


def test_an_unknown_check_is_answered_with_near_names_and_then_all_in_order():
    with pytest.raises(UnknownChoiceError) as caught:
        chosen_checks("R1,reordering_row_reorders_outputs")
    said = str(caught.value)
    assert said.startswith(
        f"no check or clause is called reordering_row_reorders_outputs; near it: {ORDER}; there are R1"
    )
    names = said.split("there are ")[1].split(", ")
    assert [name for name in names if name in CHECKS] == sorted(CHECKS)


def test_nothing_is_near_what_is_like_nothing():
    with pytest.raises(UnknownChoiceError, match=r"^no model is called qqq; there are bert, "):
        chosen_models("qqq")


@pytest.mark.parametrize(
    ("models", "checks", "said"),
    [
        ("bert", "R1,G1", ["G1"]),
        ("bert,gpt2", "R1,G1", []),
        ("bert", "all", []),
        ("bert", "all,G1", []),
        ("bert", "quick", []),
        ("bert", "quick,G1", ["G1"]),
        ("bert", f"{ORDER},G1,G2", ["G1", "G2"]),
        ("every:bert", "R1", []),
    ],
)
def test_what_was_asked_for_and_applies_to_no_model_is_named(models, checks, said):
    assert inapplicable(models, checks) == said
    assert Choice(models, checks).to_record().get("inapplicable", []) == said


def passed(model, check):
    return Verdict(model, check, ("R2",), Outcome.PASS)


def test_only_verdicts_on_what_is_chosen_now_are_taken_over():
    here, others = passed("bert", ORDER), [passed("vit", ORDER), passed("bert", BASE), passed("gone", ORDER)]
    assert Choice("bert", "R2").taken_over({}, [here, *others]) == [here]
    both = [here, passed("bert", BASE)]
    parts = [Choice("bert", f"{ORDER},{BASE}", Shard(number, 2)).taken_over({}, both) for number in (1, 2)]
    assert sorted(map(len, parts)) == [1, 1]
    assert parts[0] != parts[1]


def test_a_sweeps_verdicts_are_taken_over_by_stage():
    pytest.importorskip("transformers")
    here, other = passed("every:bert", "linear_layers"), passed("every:gpt2", "linear_layers")
    assert Choice("every:bert").taken_over({}, [here, other]) == [here]


@pytest.mark.parametrize(("then", "now", "kept"), [("a", "a", 1), ("a", "b", 0), ("", "", 0), (None, "a", 0)])
def test_verdicts_on_a_users_own_model_are_taken_over_while_it_is_the_same(monkeypatch, then, now, kept):
    monkeypatch.setattr("conformance.models.fingerprint.fingerprint", lambda spec: now)
    before = {} if then is None else {"own": {OWN: then}}
    assert len(Choice(OWN, "R2").taken_over(before, [passed(OWN, ORDER)])) == kept
    assert Choice(OWN, "R2").changed(before) == [OWN] * (not kept)


def test_a_record_says_what_the_users_own_models_are():
    record = Choice(f"bert,{OWN}", "R2").to_record()
    assert list(record["own"]) == [OWN]
    assert record["own"][OWN]
    assert "own" not in Choice("bert").to_record()
