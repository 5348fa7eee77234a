"""The page says everything once, escapes everything, loads nothing, and its links lead somewhere."""

import base64
import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.__main__ import main
from conformance.bench.measurements import Row
from conformance.report.benches import read as read_bench
from conformance.report.html import render
from conformance.report.jsonl import Report, merge, read, write
from conformance.verdict import Outcome, Verdict

pytest.importorskip("jinja2", reason="the page is made with jinja2: pip install jinja2")

RESULTS = sorted((Path(__file__).parents[3] / "results" / "matrix").glob("*.jsonl"))
MOST = 2_000_000
HOSTILE = [
    "</script><script>alert(1)</script>",
    "</style><style>*{display:none}",
    '"><img src=https://evil.example/x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "x onclick=alert(1) y=",
    "<!-- <a href=javascript:alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;b&gt; &amp;amp; &#x3c;i&#x3e;",
    "]]></title></textarea></select></table>",
]


@pytest.fixture
def bench(tmp_path):
    def make(name):
        rows = [Row(f"{name} {number} adapters: {name}", number / 2, name, 1.1, name) for number in (2, 4, 8)]
        path = tmp_path / "bench.json"
        about = {"command": name, "packages": {"torch": name}}
        path.write_text(json.dumps({**about, "rows": list(map(asdict, rows))}))
        return read_bench(path)

    return make


def both_sides(report, verdict, say=""):
    wrong = verdict("fail", detail=f"row 1 {say}", reproduction=f"reproduce('{say}')", error=1.5, separation=0.25)
    more = verdict(model="vit", check="order_is_kept", clauses=("R2", "F1"), finding="exact by split", route="split")
    return [report(verdict(examples=3), more, name="c01"), report(wrong, more, name="c01", with_shim=False)]


def test_the_page_says_what_the_runs_say(report, verdict, read_page):
    page = read_page(render(both_sides(report, verdict, "is row 2's")))
    assert "2 runs in 1 environment, 2 models, 3 clauses" in page.text
    assert "1 of 1 runs passed" in page.text
    assert "0 of 1 runs passed" in page.text
    assert "NOT AS ON RECORD" in page.text
    assert "wrong without it: c01 row 1 is row 2's" in page.text
    assert "error 1.5, power 0.25, 0 scenarios" not in page.text
    assert "reproduce('is row 2's')" in page.contents["pre"]
    assert "exact by split, route: split with the shim: c01; without it: c01" in page.text
    assert page.contents["title"] == ["Mixed-adapter batches: conformance"]


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome.fails_the_run])
def test_what_fails_is_never_said_to_have_passed(report, verdict, read_page, outcome):
    page = read_page(render([report(verdict(), verdict(outcome, model="vit"))]))
    assert "0 of 1 runs passed" in page.text
    assert "FAILED" in page.text
    assert "PASSED" not in page.text


def test_a_run_that_was_cut_short_is_said_to_be(report, verdict, read_page):
    for with_shim in (True, False):
        page = read_page(render([report(verdict(), complete=False, with_shim=with_shim)]))
        assert "CUT SHORT" in page.text
        assert "PASSED" not in page.text


def test_a_run_of_nothing_is_a_page(report, read_page):
    page = read_page(render([report()]))
    assert "NOTHING SHOWN" in page.text
    assert not page.dead_links()


def test_changes_are_shown_and_lead_to_their_verdicts(report, verdict, read_page):
    now = [report(verdict("fail"), verdict(model="vit"))]
    before = [report(verdict(), verdict("fail", model="vit"), verdict(model="gone-model"))]
    page = read_page(render(now, before))
    assert "wrong now, and not before 1" in page.text
    assert "wrong before, and not now 1" in page.text
    assert "gone-model (1)" in page.text
    assert not page.dead_links()
    assert "nothing changed" in read_page(render(now, now)).text
    assert "baseline" not in read_page(render(now)).text


def test_benches_are_tables_and_pictures(report, bench, read_page):
    page = read_page(render([report()], benches=[bench("shim")]))
    assert "shim N adapters" in page.text
    assert "3 cases in numbers" in page.text
    assert len([point for point in page.values("points") if len(point.split()) == 3]) == 1
    assert any("over" in value.split() for value in page.values("class"))  # 2 and 4 are more than 1.1


def everything(report, verdict, bench, text):
    header = {"started": text, "command": text, "code": text}
    packages = {"torch": text, "transformers": text, "peft": text}
    said = {"model": text, "check": text, "clauses": (text,), "detail": text + " x" * 200, "reproduction": text}
    verdicts = [verdict("fail", finding=text, route=text, **said), verdict("refused", **{**said, "model": text + "2"})]
    reports = [report(*verdicts, name=text, packages=packages, with_shim=s, **header) for s in (True, False)]
    baseline = [report(verdict(model=text, check=text), name=text, packages={"torch": text + "1"}, **header)]
    return render(reports, baseline, [bench(text)])


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(report, verdict, bench, read_page, text):
    tame = read_page(everything(report, verdict, bench, "tame"))
    page = read_page(everything(report, verdict, bench, text))
    assert page.tags == tame.tags
    assert [(tag, name) for tag, name, _ in page.attributes] == [(tag, name) for tag, name, _ in tame.attributes]
    assert page.loaded() == []
    assert page.contents["pre"] == [text]
    assert page.text.count(" ".join(text.split())) == tame.text.count("tame")


@settings(derandomize=True, database=None, deadline=None, max_examples=30)
@given(text=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1))
def test_any_text_comes_through_as_it_is(report, verdict, read_page, text):
    page = read_page(render([report(verdict("fail", detail=f"[{text}]", reproduction=f"[{text}]"))]))
    assert f"[{text}]" in page.contents["pre"]
    assert any(said.strip() == f"[{text}]" for said in page.contents["p"])


def test_a_text_that_utf_8_cannot_hold_is_no_traceback(report, verdict, tmp_path):
    path = tmp_path / "run.jsonl"
    write(path, report(verdict("fail", detail="HERE")))
    path.write_text(path.read_text().replace("HERE", "\\ud800 and on"))
    assert main(["report", str(path), "--html", str(tmp_path / "page.html")]) == 0
    assert "? and on" in (tmp_path / "page.html").read_text("utf-8")


def test_long_texts_and_reproductions_stand_once_in_the_page(report, verdict):
    said = {"detail": "once and for all: " + "far too much " * 30, "reproduction": "reproduce('this once')"}
    verdicts = [verdict("fail", model=model, check=check, **said) for model in ("bert", "vit") for check in "ab"]
    page = render([report(*verdicts, name=f"c{run:02}") for run in range(5)])
    assert page.count(said["detail"]) == 1
    assert page.count(said["reproduction"]) == 1


def real(most):
    """Return the first runs of the matrix, of `most` verdicts in all."""
    reports, count = [], 0
    for path in RESULTS:
        found = read(path)
        kept = found.verdicts[: most - count]
        reports += [Report(found.header, kept, found.footer)] if kept else []
        count += len(kept)
    assert count == most
    return merge(reports)


def wide():
    """Return twenty runs of 500 checks, half of which fail, each in words of its own."""
    return [
        Report(
            {"environment": {"name": f"c{run:02}"}, "settings": {"with_shim": run % 2 == 0}},
            tuple(made(f"model-{at % 25}", f"check_{at // 25}_is_right", fails=at % 2, run=run) for at in range(500)),
            {"complete": True},
        )
        for run in range(20)
    ]


def tall():
    """Return three runs of 3,333 checks, a tenth of which fail: a sweep of every model type."""
    return [
        Report(
            {"environment": {"name": f"c{run:02}"}, "settings": {"with_shim": True}},
            tuple(
                made(f"every:type-{at // 3}", f"stage_{at % 3}", fails=at % 10 == 0, run=run)
                for at in range(3333 + (run == 0))
            ),
            {"complete": True},
        )
        for run in range(3)
    ]


def made(model, check, fails, run):
    if not fails:
        return Verdict(model, check, ("R7",), Outcome.PASS, error=run * 1.1e-16, separation=0.3, examples=5)
    detail = f"output 'logits' differs by 1.6 [{model}, {check}]; observed {'3.719, -1.198, ' * 12}"
    return Verdict(
        model, check, ("R7",), Outcome.FAIL, detail, f"reproduce({model!r}, {check!r}, {'Adapter(), ' * 30})"
    )


@pytest.mark.parametrize("reports", [lambda: real(10_000), wide, tall], ids=["real", "wide", "tall"])
def test_ten_thousand_verdicts_are_less_than_two_megabytes(reports, read_page):
    given = reports()
    assert sum(len(one.verdicts) for one in given) == 10_000
    text = render(given)
    assert len(text.encode()) < MOST
    page = read_page(text)
    assert page.tags.count("article") == len({(v.model, v.check) for one in given for v in one.verdicts})
    assert not page.dead_links()
    assert len(page.ids) == len(set(page.ids))
    assert page.loaded() == []


def test_every_filter_has_its_data(read_page):
    reports = real(3000)
    page = read_page(render(reports))
    verdicts = [verdict for one in reports for verdict in one.verdicts]
    assert {verdict.model for verdict in verdicts} <= set(page.values("data-model"))
    assert {verdict.check for verdict in verdicts} <= set(page.contents["code"])
    assert {verdict.check for verdict in verdicts} <= set(page.values("value"))
    assert {one.header["environment"]["name"] for one in reports} == set(page.values("data-name"))
    assert set(page.values("data-side")) == {"0", "1"}
    options = page.contents["option"]
    assert {"all", "any", "bert", "R1", "c01", "✗ wrong", "✗ wrong by a defect on record"} <= set(options)


def test_the_policy_knows_the_style_and_the_script(report, read_page):
    page = read_page(render([report()]))
    (policy,) = [value for value in page.values("content") if "default-src" in value]
    assert "default-src 'none'" in policy
    for kind in ("style", "script"):
        (content,) = page.contents[kind]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy


@pytest.mark.parametrize(
    "text",
    [
        "<img src=x>",
        "<script src='https://cdn.example/a.js'></script>",
        "<link href='https://cdn.example/a.css'>",
        "<style>@import 'a.css'</style>",
        "<style>b { background: url(a.png) }</style>",
        "<p onclick='a()'>",
        "<p style='color: red'>",
        "<iframe></iframe>",
    ],
)
def test_what_loads_or_runs_is_seen(read_page, text):
    assert read_page(text).loaded()


def test_dead_links_are_seen(read_page):
    assert read_page("<a href=#a></a><a href=#b></a><p id=b></p>").dead_links() == ["#a"]


def test_the_command_writes_the_page(report, verdict, tmp_path, read_page):
    now, before, measured = (tmp_path / name for name in ("now.jsonl", "before.jsonl", "bench.json"))
    write(now, report(verdict("fail")))
    write(before, report(verdict()))
    measured.write_text(json.dumps({"rows": [asdict(Row("forward: shim", 1.0, "x single"))]}))
    page, badge = tmp_path / "page.html", tmp_path / "badge.svg"
    asked = ["report", now, "--html", page, "--baseline", before, "--bench", measured, "--badge", badge]
    assert main(list(map(str, asked))) == 0
    found = read_page(page.read_text("utf-8"))
    assert "wrong now, and not before" in found.text
    assert "x single" in found.text
    assert badge.exists()


@pytest.mark.parametrize("option", ["--baseline", "--bench"])
def test_what_only_the_page_shows_wants_a_page(report, tmp_path, option, capsys):
    write(tmp_path / "run.jsonl", report())
    assert main(["report", str(tmp_path / "run.jsonl"), option, str(tmp_path / "run.jsonl")]) == 2
    assert "shown in the page of --html PATH" in capsys.readouterr().err


def test_a_bench_that_is_none_is_wrong_usage(report, tmp_path, capsys):
    path = str(tmp_path / "run.jsonl")
    write(tmp_path / "run.jsonl", report())
    assert main(["report", path, "--html", str(tmp_path / "page.html"), "--bench", path]) == 2
    assert "nothing that bench --json wrote" in capsys.readouterr().err


def test_without_jinja2_the_way_out_is_said(report, tmp_path, monkeypatch, capsys):
    write(tmp_path / "run.jsonl", report())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["report", str(tmp_path / "run.jsonl"), "--html", str(tmp_path / "page.html")]) == 2
    assert "pip install jinja2" in capsys.readouterr().err
