"""The page in a real browser: no errors, filters that filter, links that lead, readable without its script.

Wants playwright (the extra `browser`) and a Chromium of the system's (Debian: `apt-get install chromium`).
"""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from conformance.bench.measurements import Row
from conformance.report.benches import read as read_bench
from conformance.report.html import render
from conformance.report.jsonl import merge, read
from conformance.verdict import Outcome

pytest.importorskip("jinja2", reason="the page is made with jinja2: pip install jinja2")
playwright = pytest.importorskip("playwright.sync_api", reason="no playwright here: pip install -e '.[browser]'")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")

RESULTS = Path(__file__).parents[3] / "results"
FILES = [
    "matrix/c01-with-shim",
    "matrix/c01-without-shim",
    "matrix/c17-with-shim",
    "matrix/c17-without-shim",
    "methods",
]
ROWS = [
    Row(f"{n} adapters: {way}", n * cost, "x single", 1.1)
    for n in (2, 4, 8)
    for way, cost in (("shim", 1.0), ("PEFT", 3))
]
LINES = "#grid .model tr:not(.head)"

CONTRASTS = """() => {
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((value) => value / 255)
    .map((value) => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
    .reduce((sum, value, at) => sum + value * [0.2126, 0.7152, 0.0722][at], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = channels(getComputedStyle(at).backgroundColor);
      if (color.length < 4 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const poor = {};
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || element.closest("script") || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const [one, two] = [light(channels(element.closest("svg") ? style.fill : style.color)), light(behind(element))];
    const contrast = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
    const name = `${element.tagName}.${element.getAttribute("class") ?? ""} ${element.textContent.trim().slice(0, 30)}`;
    if (contrast < 4.5) poor[name] = contrast;
  }
  return poor;
}"""


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def reports():
    return merge([read(RESULTS / f"{name}.jsonl") for name in FILES])


@pytest.fixture(scope="module")
def path(reports, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    (folder / "bench.json").write_text(json.dumps({"command": "bench", "rows": list(map(asdict, ROWS))}))
    baseline = merge([read(RESULTS / "matrix" / f"c01-{side}-shim.jsonl") for side in ("with", "without")])
    page = folder / "page.html"
    page.write_text(render(reports, baseline, [read_bench(folder / "bench.json")]), encoding="utf-8")
    return page


@pytest.fixture
def opened(chromium, path):
    """Return a function that opens a page; what went wrong in it, and what it fetched, fails the test afterwards."""
    contexts, wrong = [], []

    def opened(file=path, **options):
        contexts.append(chromium.new_context(**{"viewport": {"width": 1440, "height": 900}, **options}))
        page = contexts[-1].new_page()
        page.set_default_timeout(120_000)  # of machines that do other work beside
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: wrong.append(request.url) if request.url.split("#")[0] not in own else None)
        own = (file.as_uri(), "data:,")
        page.goto(file.as_uri())
        return page

    opened.wrong = wrong
    yield opened
    for context in contexts:
        context.close()
    assert not wrong


def shown(page, selector):
    return page.locator(f"{selector} >> visible=true").count()


def keys(reports, wanted):
    return {(v.model, v.check) for one in reports for v in one.verdicts if wanted(v)}


def test_it_loads_without_an_error(opened):
    page = opened()
    assert page.title() == "Mixed-adapter batches: conformance"
    assert page.locator("#filters").is_visible()
    assert page.evaluate("document.compatMode") == "CSS1Compat"


def test_what_goes_wrong_in_a_page_is_seen(opened, tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text("<script>console.log('said'); alert('asked'); throw Error('thrown')</script><img src=other.png>")
    opened(bad)
    said = " ".join(opened.wrong)
    assert all(word in said for word in ("said", "asked", "thrown", "other.png"))
    opened.wrong.clear()


def test_checks_fold_out_of_their_model(opened):
    page = opened()
    assert shown(page, LINES) == 0
    page.click(".model[data-model=bert] label")
    assert shown(page, LINES) == shown(page, ".model[data-model=bert] tr:not(.head)") > 0
    page.click("[name=all]")
    assert shown(page, LINES) == page.locator(LINES).count()
    assert page.inner_text("[name=all]") == "close all"
    page.click("[name=all]")
    assert shown(page, LINES) == 0


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("verdict", "fk", lambda v: v.outcome is Outcome.FAIL),
        ("verdict", "r", lambda v: v.outcome is Outcome.REFUSED),
        ("verdict", "p", lambda v: v.outcome is Outcome.PASS),
        ("model", "swin", lambda v: v.model == "swin"),
        ("check", "R1", lambda v: "R1" in v.clauses),
        ("check", "threads_do_not_affect_each_other", lambda v: v.check == "threads_do_not_affect_each_other"),
    ],
)
def test_a_filter_leaves_what_was_asked_for(opened, reports, name, value, wanted):
    page = opened()
    page.select_option(f"[name={name}]", value)
    expected = keys(reports, wanted)
    assert 0 < len(expected) < len(keys(reports, lambda v: True))
    assert shown(page, LINES) == len(expected)
    assert shown(page, "#grid .model .head") == len({model for model, _ in expected})
    page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true })")
    assert shown(page, "article") == len(expected)
    assert page.locator("output").inner_text().startswith(f"{len(expected)} of ")


def test_the_text_filter_finds_names_and_messages(opened, reports):
    page = opened()
    for text, wanted in (
        ("with_kwargs", lambda v: "with_kwargs" in v.detail),
        ("THREADS do not", lambda v: v.check.startswith("threads_do_not")),
        ("mobilevit", lambda v: "mobilevit" in v.model + v.detail),
    ):
        page.fill("[name=text]", text)
        assert shown(page, LINES) == len(keys(reports, wanted)) > 0
    page.fill("[name=text]", "no such thing anywhere")
    assert shown(page, "#grid .model") == shown(page, "details.model") == 0
    assert page.locator("output").inner_text() == "nothing is like that"
    page.click("[type=reset]")
    assert page.locator("output").inner_text().startswith(f"{page.locator(LINES).count()} of ")
    assert shown(page, "#grid .model") == page.locator("#grid .model").count()


def test_the_environment_filter_leaves_its_columns(opened, reports):
    page = opened()
    for value, expected in (("=c01", ["c01", "c01"]), ("1", ["c01", "c17"]), ("0", ["c01", "c17"])):
        page.select_option("[name=environment]", value)
        heads = page.locator("#grid .runs th[data-name] >> visible=true").all_inner_texts()
        assert [head for head in heads if not head.startswith("torch")] == expected
        row = page.locator("#grid .model[data-model=bert] .head td >> visible=true")
        assert row.count() == len(heads)
        spans = page.evaluate(
            "[...document.querySelectorAll('.sides th')].filter((e) => !e.hidden).map((e) => e.colSpan)"
        )
        assert sum(spans) == len(heads)


def test_filters_work_together(opened, reports):
    page = opened()
    page.select_option("[name=environment]", "1")
    page.select_option("[name=verdict]", "fk")
    assert shown(page, LINES) == 0  # with the shim nothing is wrong
    page.select_option("[name=environment]", "=c17")
    page.select_option("[name=model]", "llama")
    (c17,) = [
        one
        for one in reports
        if one.header["environment"].get("name") == "c17" and not one.header["settings"]["with_shim"]
    ]
    expected = keys([c17], lambda v: v.model == "llama" and v.outcome is Outcome.FAIL)
    assert shown(page, LINES) == len(expected) > 0


def test_every_link_leads_somewhere(opened):
    page = opened()
    dead = "[...document.links].filter((a) => a.hash && !document.getElementById(a.hash.slice(1))).map((a) => a.href)"
    assert page.evaluate(dead) == []
    assert page.evaluate("[...document.links].filter((a) => !a.hash).map((a) => a.href)") == []
    page.click("nav >> text=Matrix")
    assert page.evaluate("document.querySelector('#matrix').getBoundingClientRect().top") < 40


def test_a_cell_shows_its_verdict_with_its_reproduction(opened, reports):
    page = opened()
    page.click(".model[data-model=swin] label")
    page.click(".model[data-model=swin] tr:not(.head) td.k >> nth=0")
    said = page.locator("#drawer").inner_text()
    assert "swin R1 R7" in said
    (verdict,) = [
        v
        for one in reports
        for v in one.verdicts
        if one.header["environment"].get("name") == "c01"
        and (v.model, v.check, v.outcome) == ("swin", "a_row_is_right_after_calls_of_other_sizes", Outcome.FAIL)
    ]
    assert verdict.detail in said
    assert page.locator("#drawer pre").first.inner_text() == verdict.reproduction
    assert page.evaluate("document.querySelectorAll('#drawer [id]').length") == 0
    page.click("#drawer button")
    assert not page.locator("#drawer").is_visible()
    assert page.evaluate("document.activeElement.closest('tbody')?.dataset.model") == "swin"
    page.keyboard.press("Enter")
    assert page.locator("#drawer").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#drawer").is_visible()


def test_a_text_that_stands_elsewhere_is_put_in_full(opened, report, verdict, tmp_path):
    said = {"detail": "far too much " * 30 + "END", "reproduction": "reproduce('once')"}
    wrong = [verdict("fail", model=model, check=check, **said) for model in ("bert", "vit") for check in "ab"]
    file = tmp_path / "page.html"
    file.write_text(render([report(*wrong, verdict(model="bert", check="c"))]), encoding="utf-8")
    page = opened(file)
    page.select_option("[name=model]", "vit")
    page.click(".model[data-model=vit] tr:not(.head) td.f >> nth=1")
    assert "END" in page.locator("#drawer").inner_text()
    assert page.locator("#drawer pre").inner_text() == "reproduce('once')"


def test_without_the_script_all_can_be_read(opened, reports):
    page = opened(java_script_enabled=False)
    assert not page.locator("#filters").is_visible()
    page.click(".model[data-model=bert] label")
    assert shown(page, LINES) > 0
    page.click(".model[data-model=bert] tr:not(.head) td.k a >> nth=0")
    entry = page.locator(f"[id={page.url.split('#')[1]}]")
    assert entry.is_visible()
    assert "raised TypeError" in entry.inner_text()
    page.locator("details:not([open]) > summary", has_text="whisper").click()
    assert page.locator("details[open] summary", has_text="whisper").count() == 1
    text = page.locator("body").text_content()
    for one in reports:
        for verdict in one.verdicts:
            assert verdict.check in text
            assert not verdict.reproduction or verdict.reproduction.strip() in text
            assert " ".join(verdict.detail.split())[:150] in text or verdict.detail in text


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_dark_and_light_can_be_read(opened, scheme, script):
    page = opened(color_scheme=scheme, java_script_enabled=script)
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (dark == "rgb(255, 255, 255)") == (scheme == "light")
    for model in ("bert", "method:POLY"):
        page.click(f'.model[data-model="{model}"] label')
        page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true })")
    assert page.evaluate(CONTRASTS) == {}


def test_what_cannot_be_read_is_seen(opened, tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text("<!doctype html><body style='background: #fff'><p style='color: #aaa'>pale</p><p>clear</p>")
    page = opened(bad)
    assert list(page.evaluate(CONTRASTS)) == ["P. pale"]


def test_a_narrow_screen_is_not_overrun(opened):
    page = opened(viewport={"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize(
    "text", ["</script><script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "<b onclick=alert(1)>"]
)
def test_hostile_text_runs_nothing(opened, report, verdict, tmp_path, text):
    said = {"check": text, "clauses": (text,), "detail": text, "reproduction": text, "finding": text, "route": text}
    file = tmp_path / "page.html"
    reports = [
        report(verdict("fail", model=text, **said), name=text, with_shim=side, command=text) for side in (True, False)
    ]
    file.write_text(render(reports, reports), encoding="utf-8")
    page = opened(file)
    page.select_option("[name=model]", text)
    page.select_option("[name=environment]", "=" + text)
    page.click("#grid .model tr:not(.head) td a >> nth=0")
    assert page.locator("#drawer pre").inner_text() == text
    assert page.locator("#drawer img, #drawer script, main img").count() == 0
