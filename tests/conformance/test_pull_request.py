"""What GitHub is told: nothing in a detail can break out of it, nothing is cut in two, and no limit is passed."""

import re
import sys
from pathlib import Path

import pytest

from conformance.report.jsonl import Report, footer
from conformance.report.pull_request import MOST_ANNOTATIONS, annotation_lines, append_summary, summary
from conformance.report.result import Result, result
from conformance.settings import Settings
from conformance.verdict import Outcome, Verdict
from tests.conformance import own_models

NEITHER = [Outcome.VACUOUS, Outcome.EXPECTED, Outcome.REFUSED, Outcome.SKIPPED]
PASS = Verdict("bert", "rows_are_right", ("R1",), Outcome.PASS)


def failing(detail="row 1 is row 2's", model="vit", outcome=Outcome.FAIL, reproduction="reproduce('it')", **more):
    return Verdict(model, "rows_are_right", ("R1", "R7"), outcome, detail, reproduction, **more)


def report(*verdicts, complete=True, unmet=(), **choice):
    header = {"settings": {"with_shim": True, "examples": Settings.examples}, "choice": choice}
    end = footer(verdicts, seconds=3.0, complete=complete)
    return Report(header, verdicts, {**end, "unmet": list(unmet)})


def unescaped(line):
    """Read a workflow command as GitHub's runner does: (properties, message)."""
    match = re.fullmatch(r"::error ([^:\r\n]*)::([^\r\n]*)", line)
    assert match, line

    def plain(text):
        for code, letter in (("%3A", ":"), ("%2C", ","), ("%0D", "\r"), ("%0A", "\n"), ("%25", "%")):
            text = text.replace(code, letter)
        return text

    properties = dict(pair.split("=", 1) for pair in match.group(1).split(","))
    return {name: plain(value) for name, value in properties.items()}, plain(match.group(2))


@pytest.mark.parametrize("said", ["100% wrong", "a\nb\r\nc", "::error::x", "50%0A", "a, b: c", "é✗"])
def test_annotations_survive_what_they_say(tmp_path, said):
    properties, message = unescaped(*annotation_lines(report(failing(said, model=f"my:{said}")), tmp_path))
    assert message == f"{said}\n\nreproduce('it')"
    assert properties == {"title": f"my:{said}, rows_are_right (R1, R7): wrong"}


@pytest.mark.parametrize(("count", "shown"), [(1, 1), (10, 10), (11, 10), (300, 10)])
def test_there_are_never_more_annotations_than_github_shows(tmp_path, count, shown):
    lines = annotation_lines(report(*(failing(model=f"m{n:03}") for n in range(count))), tmp_path)
    assert len(lines) == shown <= MOST_ANNOTATIONS
    assert (f"and {count - shown + 1} more" in lines[-1]) == (count > shown)


def test_a_users_own_model_is_annotated_at_its_function():
    source = Path(own_models.__file__)
    folder = source.parents[2]
    found = report(failing(model="own:tests.conformance.own_models:module"))
    properties, _ = unescaped(*annotation_lines(found, folder))
    assert properties["file"] == "tests/conformance/own_models.py"
    assert source.read_text("utf-8").splitlines()[int(properties["line"]) - 1] == "def module():"
    properties, _ = unescaped(*annotation_lines(found, folder / "docs"))
    assert set(properties) == {"title"}  # the file lies elsewhere
    assert "no.such.module" not in sys.modules
    properties, _ = unescaped(*annotation_lines(report(failing(model="own:no.such.module:f")), folder))
    assert set(properties) == {"title"}


def test_an_expected_failure_that_did_not_come_is_annotated_at_its_line(tmp_path):
    entry = {"name": "vit/R1", "where": "ci/expected.toml, line 7", "said": "known, https://bugs/1"}
    properties, message = unescaped(*annotation_lines(report(PASS, unmet=[entry]), tmp_path))
    assert (properties["file"], properties["line"]) == ("ci/expected.toml", "7")
    assert "vit/R1" in message


def test_a_red_step_without_a_failure_says_why(tmp_path):
    assert annotation_lines(report(PASS), tmp_path) == []
    assert "NOTHING SHOWN" in annotation_lines(report(), tmp_path)[0]
    assert "CUT SHORT" in annotation_lines(report(PASS, complete=False), tmp_path)[0]


def test_summary_has_what_a_reviewer_asks():
    known = failing(model="swin", outcome=Outcome.EXPECTED, expected="known, https://bugs/1")
    refused = failing("logits_per_image mixes samples", model="clip", outcome=Outcome.REFUSED)
    entry = {"name": "vit/R9", "where": "expected.toml, line 7", "said": "gone"}
    text = summary(report(PASS, failing(), known, refused, unmet=[entry], left_out=["beams"]))
    assert text.startswith(
        "### Mixed-adapter batches: FAILED: 1 pass, 1 fail, 1 expected, 1 refused on 4 models in 3 s\n"
    )
    assert "<details><summary>✗ <b>vit</b>, <code>rows_are_right</code> (R1, R7): wrong</summary>\n\n" in text
    assert "\n```python\nreproduce('it')\n```\n\n</details>" in text
    assert "- **swin** (R1, R7): known, https://bugs/1" in text
    assert "- **clip** (R1, R7): logits\\_per\\_image mixes samples" in text
    assert "- vit/R9 (expected.toml, line 7) should fail, but does not: gone" in text
    assert "not run: beams. Leave out --quick" in text


def test_nothing_breaks_out_of_the_fold():
    text = summary(report(failing("</details><b>\n# h", reproduction="x = '```'\n'````'", model="<i>")))
    assert text.count("</details>") == 1
    assert "<b>&lt;i&gt;</b>" in text
    assert "`````python\nx = '```'\n'````'\n`````" in text


def test_summary_stays_short_and_cuts_no_reproduction():
    reproduction = "reproduce(" + "x" * 3000 + ")"
    text = summary(report(*(failing("d" * 5000, f"m{n:03}", reproduction=reproduction) for n in range(100))))
    assert len(text) < 65_536
    assert text.count(reproduction) == text.count("<details>") == text.count("</details>")
    shown = text.count("<details>")
    assert shown > 5
    assert f"and {100 - shown} more that fail" in text


def test_summaries_are_appended(tmp_path):
    path = tmp_path / "new" / "summary.md"
    append_summary(path, [report(PASS)])
    append_summary(path, [report(failing()), report(PASS)])
    assert path.read_text("utf-8").count("###") == 3


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (report(PASS), Result.PASSED),
        (report(PASS, failing()), Result.FAILED),
        (report(failing(), complete=False), Result.FAILED),
        (report(PASS, unmet=[{}]), Result.FAILED),
        (report(PASS, failing(outcome=Outcome.VACUOUS)), Result.FAILED),
        (report(PASS, failing(outcome=Outcome.ERROR)), Result.FAILED),
        (report(failing(outcome=Outcome.ERROR)), Result.FAILED),
        (report(PASS, failing(outcome=Outcome.EXPECTED)), Result.PASSED),
        (report(PASS, failing(outcome=Outcome.REFUSED)), Result.PASSED),
        (report(PASS, complete=False), Result.CUT_SHORT),
        (report(), Result.NOTHING_SHOWN),
        *((report(failing(outcome=outcome)), Result.NOTHING_SHOWN) for outcome in NEITHER),
    ],
)
def test_a_report_comes_to_one_result_with_a_code_of_its_own(found, expected):
    assert result(found) is expected
    assert found.passed is (expected is Result.PASSED)
    assert [one.code for one in Result] == [0, 1, 3, 4]
