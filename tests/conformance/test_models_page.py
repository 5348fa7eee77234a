"""The page of every model type: nothing that needs a word goes without one."""

from conformance.report.jsonl import Report
from conformance.report.models import OURS, count_lines, counts, coverage, kind_of, render, swept
from conformance.sweep.finding import Finding, Judgement
from conformance.sweep.stages import STAGES

HEADER = {
    "command": "python -m conformance run --models all",
    "started": "2026-01-01",
    "environment": {"python": "3.11", "packages": {"torch": "2.13", "transformers": "5.23", "peft": "0.21"}},
    "settings": {"with_shim": True},
}
FINDINGS = {
    "every:fine": (Finding.ONE_PASS, ""),
    "every:fine+head": (Finding.SPLIT, "not fed: sound"),
    "every:mixes": (Finding.REFUSED, "output 'logits' mixes samples"),
    "every:wrong": (Finding.WRONG, "row 1 differs | by 3"),
    "every:slow": (Finding.TIME_OUT, "time-out after 120 s"),
    "every:alone": (Finding.CANNOT_BUILD, "registered with a configuration only: no model class of its own"),
    "every:optional": (Finding.CANNOT_BUILD, "ImportError: X requires the timm library but it was not found in your"),
    "every:ours": (Finding.CANNOT_BUILD, "LookupError: nothing knows how to draw the argument 'x'"),
}


def report(findings=FINDINGS):
    verdicts = [
        Judgement(finding, detail).verdict(model, stage, 1.0)
        for model, (finding, detail) in findings.items()
        for stage in STAGES
    ]
    return Report(HEADER, tuple(verdicts), {})


def test_every_finding_is_counted():
    assert dict(counts(swept(report())))["cannot build"] == [3] * len(STAGES)
    assert dict(counts(swept(report())))["WRONG"] == [1] * len(STAGES)
    assert "time-out" in "\n".join(count_lines(swept(report())))
    assert count_lines([]) == []


def test_classes_that_ran_are_told_from_those_that_could_not():
    ran, unbuilt = coverage(swept(report()))
    assert ran == 5
    assert sum(unbuilt.values()) == 3
    assert unbuilt[OURS] == 1
    assert kind_of("anything new") == OURS


def test_every_exception_has_its_reason_and_every_class_its_row():
    page = render(report())
    for model, (finding, detail) in FINDINGS.items():
        name = model.split(":")[1]
        assert f"| {name} |" in page
        if finding not in (Finding.ONE_PASS, Finding.SPLIT):
            assert f"- {name}: {detail.split('|')[0][:30]}" in page.replace("\\", "")
    assert "transformers 5.23" in page
    assert "with the shim" in page
    assert "5 of the 6 classes that can run here" in page


def test_a_reason_cannot_break_the_table():
    assert "differs \\| by 3" in render(report())


def test_what_an_exact_class_left_out_is_said():
    assert "- not fed: sound: fine+head" in render(report()).replace("\\", "")


def test_one_reason_of_many_classes_is_said_once():
    mixing = (Finding.REFUSED, "output 'logits' mixes samples")
    page = render(report({"every:one": mixing, "every:two": mixing}))
    assert page.count("mixes samples") == 1
    assert "- one, two: output" in page


def test_what_upstream_does_by_itself_stands_beside():
    alone = report(dict.fromkeys(FINDINGS, (Finding.WRONG, "row 0 differs")))
    page = render(report(), alone)
    assert "The same without the shim" in page
    assert "| WRONG | 1 | 1 | 1 |" in page
    assert "| WRONG | 8 | 8 | 8 |" in page
    assert "| fine | ✓ | ✓ | ✓ |" in page  # the rows stay those with the shim


def test_a_stage_that_a_run_did_not_have_is_no_column_of_zeros():
    verdicts = [verdict for verdict in report().verdicts if verdict.check != "generate"]
    page = render(report(), Report(HEADER, tuple(verdicts), {}))
    with_shim, beside, _ = [line for line in page.splitlines() if "| linear" in line]
    assert "fused" in beside
    assert ("generate" in with_shim, "generate" in beside) == (True, False)
