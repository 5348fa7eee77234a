"""A run without the shim is as on record, or what is not is named."""

from conformance.report.expected import headline, render
from conformance.report.jsonl import Report
from conformance.upstream.defect import Defect, Sighting
from conformance.upstream.expectation import expectation
from conformance.verdict import Outcome, Verdict

ONE = Defect("first", "the first is wrong", "o/r#1", {"peft": "<1"}, (Sighting(("one",), lambda m: True, "wrong"),))
CHANCE = Defect(
    "chance", "sometimes wrong", "o/r#2", {"peft": "<1"}, (Sighting(("one",), lambda m: True, "", certain=False),)
)
MODELS = ("bert", "vit")


def held(*defects, peft="0.9", **outcomes):
    """Hold the verdicts of check `one` on two models against defects; an outcome is `pass` or what a failure says."""
    verdicts = [verdict(model, outcomes.get(model, "pass")) for model in MODELS]
    return expectation(Report({"environment": {"packages": {"peft": peft}}}, tuple(verdicts), {}), defects)


def verdict(model, said):
    known = {outcome.value: outcome for outcome in Outcome}
    outcome = known.get(said, Outcome.FAIL)
    return Verdict(model, "one", ("R1",), outcome, "" if said in known else said, reproduction="reproduce(...)")


def test_failures_that_a_defect_explains_are_known():
    found = held(ONE, bert="all wrong", vit="wrong again")
    assert found.met
    assert [(v.model, [d.name for d in by]) for v, by in found.known] == [("bert", ["first"]), ("vit", ["first"])]
    assert headline(found) == "AS ON RECORD: 2 red, each by a known defect, and nothing else"
    assert "2 red by first (R1): the first is wrong\n    o/r#1" in render(found)


def test_a_failure_that_says_something_else_is_surprising():
    found = held(ONE, bert="all wrong", vit="crashed")
    assert not found.met
    assert [v.model for v in found.surprising] == ["vit"]
    text = render(found)
    assert "vit, one (R1): fail, but no defect on record explains it" in text
    assert "crashed" in text
    assert "reproduce(...)" in text


def test_a_failure_on_versions_without_the_defect_is_surprising():
    assert [v.model for v in held(ONE, peft="1.0", bert="all wrong").surprising] == ["bert"]


def test_an_error_of_the_suite_is_never_explained():
    assert [v.model for v in held(ONE, bert="error", vit="wrong").surprising] == ["bert"]
    assert [v.model for v in held(CHANCE, bert="vacuous", vit="wrong").surprising] == ["bert"]


def test_a_pass_where_a_defect_says_red_is_missing():
    found = held(ONE, bert="all wrong")
    assert not found.met
    assert [(v.model, d.name) for v, d in found.missing] == [("vit", "first")]
    assert "vit, one (R1): pass, but should fail by first (o/r#1)" in render(found)
    assert headline(found).startswith("NOT AS ON RECORD: 1 red by known defects, 0 by none, 1 that should be red")


def test_a_refusal_where_a_defect_says_red_is_missing_but_a_skip_is_not():
    assert [v.model for v, _ in held(ONE, bert="refused", vit="wrong").missing] == ["bert"]
    assert held(ONE, bert="skipped", vit="wrong").met


def test_a_defect_by_chance_must_be_seen_somewhere():
    assert held(CHANCE, vit="anything").met
    assert held(CHANCE, bert="anything", vit="else").met
    found = held(CHANCE)
    assert [(v.model, d.name) for v, d in found.missing] == [("bert", "chance")]


def test_a_model_that_the_suite_does_not_know_is_left_alone_unless_it_fails():
    report = Report({"environment": {"packages": {"peft": "0.9"}}}, (verdict("theirs", "pass"),), {})
    assert expectation(report, [ONE]).met
    report = Report({"environment": {"packages": {"peft": "0.9"}}}, (verdict("theirs", "wrong"),), {})
    assert [v.model for v in expectation(report, [ONE]).surprising] == ["theirs"]
