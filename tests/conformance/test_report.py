"""What is written is read again, merging hides nothing, and no view of a failure looks like a success."""

import builtins
import math

import pytest

from conformance.report import markdown, table
from conformance.report.environment import command, device_name, goes_on_from, header, versions
from conformance.report.jsonl import (
    Report,
    ReportError,
    footer,
    merge,
    read,
    verdict_from_json,
    verdict_to_json,
    write,
)
from conformance.settings import Settings
from conformance.verdict import Outcome, Verdict

PASS = Verdict("bert", "rows_are_right", ("R1", "R10"), Outcome.PASS, error=1e-15, separation=0.25)
FAIL = Verdict("vit", "rows_are_right", ("R1",), Outcome.FAIL, "row 2 is row 1's", "reproduce(\n    'vit'\n)")
REFUSED = Verdict("mixtral", "rows_are_right", ("R1",), Outcome.REFUSED, "tokens of many samples")
VACUOUS = Verdict("swin", "rows_are_right", ("R2",), Outcome.VACUOUS, "adapters too alike")
ERROR = Verdict("t5", "rows_are_right", ("F1",), Outcome.ERROR, "cannot be built")


def report(*verdicts, complete=True, with_shim=True):
    return Report(header(Settings(with_shim=with_shim)), verdicts, footer(verdicts, seconds=3.0, complete=complete))


def views(shown):
    return [table.render(shown), table.render(shown, unicode=False), markdown.render(shown)]


def test_round_trip(tmp_path):
    written = report(PASS, FAIL, REFUSED, VACUOUS, ERROR)
    write(tmp_path / "run.jsonl", written)
    assert read(tmp_path / "run.jsonl") == written


@pytest.mark.parametrize("error", [0.0, 1.5e-16, math.inf])
def test_measures_survive(error):
    verdict = Verdict("bert", "rows", ("R1",), Outcome.PASS, error=error, separation=-error)
    assert verdict_from_json(verdict_to_json(verdict)) == verdict


def test_nan_survives_and_json_stays_standard():
    line = verdict_to_json(Verdict("bert", "rows", ("R1",), Outcome.FAIL, error=math.nan))
    assert '"error": "nan"' in line
    assert math.isnan(verdict_from_json(line).error)


def test_run_that_was_killed_amid_a_line_is_read_as_incomplete(tmp_path):
    path = tmp_path / "run.jsonl"
    write(path, report(PASS, FAIL))
    lines = path.read_text("utf-8").splitlines()
    path.write_text("\n".join(lines[:2] + [lines[2][:30]]), "utf-8")
    found = read(path)
    assert found.verdicts == (PASS,)
    assert not found.complete
    assert all("CUT SHORT" in view and "PASSED" not in view for view in views(found))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "line 1: a report begins with a header"),
        ("[]\n", "line 1: a report begins with a header"),
        ('{"kind": "header", "format": 2}\n', "line 1: format 2"),
        ('{"kind": "header", "format": 1}\nnonsense\n', "line 2: not JSON"),
        ('{"kind": "header", "format": 1}\n{"kind": "verdict", "clauses": []}\n', "line 2: no verdict"),
        ('{"kind": "header", "format": 1}\n3\n', "line 2: no verdict"),
    ],
)
def test_what_is_no_report_is_refused_by_line(tmp_path, content, said):
    path = tmp_path / "run.jsonl"
    path.write_text(content)
    with pytest.raises(ReportError, match=said):
        read(path)


def test_merge_keeps_the_worst_of_one_check_on_one_model():
    worse = Verdict("bert", "rows_are_right", ("R1", "R10"), Outcome.FAIL, "wrong")
    for order in ([PASS, worse], [worse, PASS]):
        (merged,) = merge([report(order[0], REFUSED), report(order[1])])
        assert set(merged.verdicts) == {worse, REFUSED}
        assert not merged.passed
        assert merged.footer["counts"]["fail"] == 1
        assert merged.footer["seconds"] == 6.0


def test_merge_keeps_environments_apart():
    with_shim, without = report(PASS), report(FAIL, with_shim=False)
    assert merge([with_shim, without]) == [with_shim, without]


def test_merged_with_an_incomplete_one_is_incomplete():
    (merged,) = merge([report(PASS), report(REFUSED, complete=False)])
    assert not merged.complete


def test_table_of_passes():
    text = table.render(report(PASS, Verdict("bert", "refusals", ("F1",), Outcome.PASS)))
    assert next(line.split() for line in text.splitlines() if "model" in line) == ["model", "R1", "R10", "F1"]
    assert ["bert", "✓", "✓", "✓"] in [line.split() for line in text.splitlines()]
    assert "worst relative error 1e-15 (bert, rows_are_right)" in text
    assert "least separation of adapters 0.25" in text
    assert "PASSED: 2 pass on 1 model in 3 s" in text


def test_cell_shows_the_worst_of_its_checks():
    other = Verdict("vit", "another_check", ("R1",), Outcome.PASS)
    for verdicts in ((FAIL, other), (other, FAIL)):
        rows = [line.split() for line in table.render(report(*verdicts)).splitlines()]
        assert ["vit", "✗"] in rows


@pytest.mark.parametrize("verdict", [FAIL, VACUOUS, ERROR], ids=lambda verdict: verdict.outcome.value)
def test_what_fails_is_never_green(verdict):
    shown = report(PASS, verdict)
    assert not shown.passed
    for view in views(shown):
        assert "FAILED" in view
        assert "PASSED" not in view
        assert verdict.detail in view
    colored = table.render(shown, color=True)
    assert "\x1b[1;31mFAILED" in colored
    assert "\x1b[1;32m" not in colored


def test_failure_is_named_with_a_reproduction_at_the_margin():
    text = table.render(report(FAIL))
    assert "vit, rows_are_right (R1): fail\nrow 2 is row 1's\n\nreproduce(\n    'vit'\n)\n" in text
    assert "reproduce(" not in table.render(report(FAIL), reproductions=False)
    assert "```python\nreproduce(\n    'vit'\n)\n```" in markdown.render(report(FAIL))


def test_refusal_is_listed_once_with_its_clauses():
    again = Verdict("mixtral", "order_is_kept", ("R2",), Outcome.REFUSED, "tokens of many samples")
    for view in views(report(PASS, REFUSED, again)):
        assert view.count("tokens of many samples") == 1
        assert "(R1, R2)" in view
        assert "PASSED: 1 pass, 2 refused" in view


@pytest.mark.parametrize("verdicts", [(), (REFUSED,)])
def test_nothing_shown_is_no_success(verdicts):
    for view in views(report(*verdicts)):
        assert "NOTHING SHOWN" in view


def test_what_was_asked_for_in_vain_is_said():
    in_vain = report(PASS)
    in_vain.header["choice"] = {"models": "bert", "checks": "R1,G1", "inapplicable": ["G1"]}
    for view in views(in_vain):
        assert "Asked for, but applies to none of these models: G1." in view
        assert "PASSED" in view
    assert not any("Asked for" in view for view in views(report(PASS)))


def test_of_merged_runs_only_that_was_asked_for_in_vain_which_was_judged_in_none():
    one, two = report(PASS), report(REFUSED)
    one.header["choice"] = {"models": "bert", "checks": "H1", "inapplicable": ["H1"]}
    two.header["choice"] = {"models": "mixtral", "checks": "G1,R10", "inapplicable": ["G1", "R10"]}
    for order in ([one, two], [two, one]):
        (merged,) = merge(order)
        assert merged.header["choice"]["inapplicable"] == ["G1", "H1"]


def test_outcome_of_a_check_without_clauses_is_not_lost():
    verdict = Verdict("bert", "unlisted", (), Outcome.ERROR, "the process died")
    assert ["bert", "!"] in [line.split() for line in table.render(report(verdict)).splitlines()]


def test_many_clauses_are_not_cropped():
    verdicts = [Verdict("m" * 40, f"c{n}", (f"R{n}",), Outcome.FAIL, "d") for n in range(60)]
    assert table.render(report(*verdicts)).count("✗") == 60 + 1  # the legend


def test_ascii_where_nothing_else_can_be_written():
    assert table.render(report(PASS, FAIL, REFUSED), unicode=False).isascii()


def test_plain_table_where_rich_is_missing(monkeypatch):
    original = builtins.__import__

    def without_rich(name, *arguments, **keywords):
        if name.split(".")[0] == "rich":
            raise ImportError(name)
        return original(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without_rich)
    text = table.render(report(PASS, FAIL, REFUSED))
    rows = [line.split() for line in text.splitlines()]
    assert ["model", "R1", "R10"] in rows
    assert ["vit", "✗", "·"] in rows
    assert "FAILED: 1 pass, 1 fail, 1 refused on 3 models" in text


def test_markdown_escapes_what_details_hold():
    verdict = Verdict("vit", "rows", ("R1",), Outcome.FAIL, "a|b\n*c* <d>")
    assert "a\\|b \\*c\\* \\<d\\>" in markdown.render(report(verdict))


def test_header_has_the_facts():
    found = header(Settings(with_shim=False, examples=3), "cuda: NVIDIA H200")
    assert found["environment"]["device"] == "cuda: NVIDIA H200"
    assert found["settings"] == {"device": "auto", "with_shim": False, "examples": 3, "shrink": False, "seed": None}
    assert "pytest" in versions()


def test_a_run_goes_on_from_one_of_the_same_code_versions_device_and_settings():
    before = header(Settings("cpu"))
    assert goes_on_from(before, Settings("cpu"))
    assert goes_on_from(before, Settings("cpu", shrink=True))
    assert not goes_on_from(before, Settings("cpu", examples=9))
    assert not goes_on_from({**before, "code": "another"}, Settings("cpu"))
    packages = {**before["environment"]["packages"], "torch": "0"}
    for changed in ({"packages": packages}, {"device": "cuda: NVIDIA H200"}):
        assert not goes_on_from({**before, "environment": {**before["environment"], **changed}}, Settings("cpu"))


def test_an_environment_of_tox_has_its_name(monkeypatch):
    monkeypatch.setenv("TOX_ENV_NAME", "c05")
    assert header(Settings())["environment"]["name"] == "c05"
    monkeypatch.delenv("TOX_ENV_NAME")
    assert "name" not in header(Settings())["environment"]


def test_device_is_unnamed_while_torch_is_not_imported(monkeypatch):
    monkeypatch.delitem(__import__("sys").modules, "torch", raising=False)
    assert device_name("auto") is None


def test_command_is_what_a_reader_would_type(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/x/conformance/__main__.py", "run", "--models", "a b"])
    assert command() == "python -m conformance run --models 'a b'"
    monkeypatch.setattr("sys.argv", ["/usr/bin/pytest", "-q"])
    assert command() == "pytest -q"
