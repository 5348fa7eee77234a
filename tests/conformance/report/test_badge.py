"""The badge is green only where everything passed, and says what it counts."""

import xml.etree.ElementTree as ElementTree

import pytest

from conformance.__main__ import main
from conformance.report.badge import GREEN, GREY, RED, message, render
from conformance.report.jsonl import write


@pytest.mark.parametrize(
    ("outcomes", "complete", "said", "color"),
    [
        (["pass", "pass", "skipped"], True, "2 exact", GREEN),
        (["pass", "refused"], True, "1 exact, 1 refused", GREEN),
        (["pass", "fail"], True, "1 wrong, 1 exact", RED),
        (["pass", "vacuous"], True, "1 vacuous, 1 exact", RED),
        (["pass", "error"], True, "1 not examined, 1 exact", RED),
        (["fail"], False, "1 wrong", RED),
        (["pass"], False, "cut short, 1 exact", GREY),
        (["refused"], True, "nothing shown, 1 refused", GREY),
        ([], True, "nothing shown", GREY),
    ],
)
def test_the_badge_is_true(report, verdict, outcomes, complete, said, color):
    verdicts = [verdict(outcome, model=f"model-{at}") for at, outcome in enumerate(outcomes)]
    reports = [report(*verdicts, complete=complete)]
    assert message(reports) == (said, color)
    drawn = ElementTree.fromstring(render(reports))
    assert said in [element.text for element in drawn.iter()]
    fills = {element.get("fill") for element in drawn.iter()}
    assert fills & {GREEN, GREY, RED} == {color}


def test_one_failing_run_of_several_makes_it_red(report, verdict):
    reports = [report(verdict("pass")), report(verdict("fail"), with_shim=False)]
    assert message(reports) == ("1 wrong, 1 exact", RED)


def test_a_run_that_shows_nothing_is_not_hidden_by_one_that_does(report, verdict):
    reports = [report(verdict("pass")), report(verdict("refused"), name="c01")]
    assert message(reports) == ("a run showed nothing, 1 exact, 1 refused", GREY)


def test_one_run_cut_short_is_not_hidden_by_a_complete_one(report, verdict):
    reports = [report(verdict()), report(verdict(), name="c01", complete=False)]
    assert message(reports) == ("cut short, 2 exact", GREY)


def test_the_command_writes_it_of_merged_reports(report, verdict, tmp_path):
    write(tmp_path / "one.jsonl", report(verdict("pass"), verdict("pass", model="vit")))
    write(tmp_path / "two.jsonl", report(verdict("fail")))
    badge = tmp_path / "badge.svg"
    assert main(["report", str(tmp_path / "one.jsonl"), "--badge", str(badge)]) == 0
    assert "mixed adapters: 2 exact<" in badge.read_text()
    # Of two verdicts on one check and model the worst is counted.
    assert main(["report", str(tmp_path / "one.jsonl"), str(tmp_path / "two.jsonl"), "--badge", str(badge)]) == 0
    assert "mixed adapters: 1 wrong, 1 exact<" in badge.read_text()
    assert len(badge.read_bytes()) < 2000
