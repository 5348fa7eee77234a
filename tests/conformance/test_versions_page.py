"""Runs of many environments come to one page: versions across, clauses down, each red cell to its reproduction."""

from pathlib import Path

from conformance.report.jsonl import Report
from conformance.report.versions import environments, pages, render
from conformance.verdict import Outcome, Verdict

OLD = {"torch": "1.13.1+cpu", "peft": "0.10.0", "transformers": "4.36.2"}
NEW = {"torch": "2.13.0+cpu", "peft": "0.21.2", "transformers": "5.23.0"}
R1 = "each_row_equals_its_own_run"
S1 = "failure_leaves_no_trace"


def verdict(check, clauses, detail="", outcome=None, model="bert"):
    outcome = outcome or (Outcome.FAIL if detail else Outcome.PASS)
    return Verdict(model, check, clauses, outcome, detail, reproduction=f"reproduce({model!r})" if detail else None)


def report(name, packages, with_shim, *verdicts, device="cpu"):
    facts = {"name": name, "python": "3.11.7", "device": device, "packages": packages}
    header = {"environment": facts, "settings": {"with_shim": with_shim}}
    return Report(header, verdicts, {"complete": True, "seconds": 1.0})


def two():
    kwargs = "raised TypeError: unexpected keyword argument 'with_kwargs'"
    return [
        report("c17", NEW, True, verdict(R1, ("R1", "R7")), verdict(S1, ("S1",))),
        report("c17", NEW, False, verdict(R1, ("R1", "R7")), verdict(S1, ("S1",), "the call left a trace")),
        report("c01", OLD, True, verdict(R1, ("R1", "R7"))),
        report("c01", OLD, False, verdict(R1, ("R1", "R7"), kwargs), verdict(S1, ("S1",))),
    ]


def line(text, first):
    (found,) = [line for line in text.splitlines() if line.startswith(f"| {first} |")]
    return found


def test_environments_are_told_once_by_name():
    found = environments(two())
    assert [one.name for one in found] == ["c01", "c17"]
    assert all(one.with_shim and one.without_shim for one in found)


def test_clauses_go_down_and_versions_across_with_the_shim_and_without():
    text = render(environments(two()), "versions")
    assert line(text, "clause") == "| clause | c01 | c17 |"
    assert line(text, "R1") == "| R1 | ✓ [✗](versions/c01.md#r1) | ✓ ✓ |"
    assert line(text, "S1") == "| S1 | · ✓ | ✓ [✗](versions/c17.md#s1) |"
    assert "AS ON RECORD: 1 red" in line(text, "c01")


def test_a_defect_is_told_with_its_pull_request_and_where_it_was_seen():
    told = line(render(environments(two()), "versions"), "`hooks_without_kwargs`")
    assert "pytorch/pytorch#89389" in told
    assert told.endswith("| R1, R7 | c01 |")


def test_every_red_cell_leads_to_its_reproduction():
    texts = pages(two(), Path("docs/versions.md"))
    assert sorted(map(str, texts)) == ["docs/versions.md", "docs/versions/c01.md", "docs/versions/c17.md"]
    page = texts[Path("docs/versions/c01.md")]
    assert "## R1\n" in page
    assert f"`{R1}` fails by `hooks_without_kwargs` on bert." in page
    assert "```python\nreproduce('bert')\n```" in page
    assert f"## R7\n\n`{R1}`: see R1" in page


def test_what_is_not_as_on_record_is_said():
    reports = [report("c17", NEW, False, verdict(R1, ("R1",), "crashed"), verdict(S1, ("S1",)))]
    text = pages(reports, Path("versions.md"))
    assert "NOT AS ON RECORD: 0 red by known defects, 1 by none, 1 that should be red" in text[Path("versions.md")]
    assert f"- not red: bert, {S1}: should be by hooks_left_behind" in text[Path("versions/c17.md")]


def test_a_red_with_the_shim_is_shown_too():
    reports = [report("c17", NEW, True, verdict(R1, ("R1",), "differs by 1"))]
    texts = pages(reports, Path("versions.md"))
    assert line(texts[Path("versions.md")], "R1") == "| R1 | [✗](versions/c17.md#r1-with-the-shim) · |"
    assert "## R1 with the shim" in texts[Path("versions/c17.md")]


def test_an_environment_without_a_name_is_named_by_its_versions_and_its_device():
    (one,) = environments([report(None, NEW, True, verdict(R1, ("R1",)), device="cuda: NVIDIA H100")])
    assert one.name == "torch2.13.0+cpu-peft0.21.2-cuda"
