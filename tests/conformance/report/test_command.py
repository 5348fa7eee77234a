import pytest

from conformance.__main__ import main
from conformance.report.jsonl import write

PAGES = {
    "--badge": "badge.svg",
    "--svg": "both.svg",
    "--html": "page.html",
    "--versions-markdown": "versions.md",
    "--costs": "costs.json",
}


def test_every_page_that_is_asked_for_is_written(report, verdict, tmp_path, capsys):
    pytest.importorskip("jinja2", reason="the page is made with jinja2: pip install jinja2")
    write(tmp_path / "run.jsonl", report(verdict("pass"), verdict("fail", model="vit")))
    asked = [word for option, name in PAGES.items() for word in (option, str(tmp_path / name))]
    assert main(["report", str(tmp_path / "run.jsonl"), *asked]) == 0
    assert [name for name in PAGES.values() if not (tmp_path / name).exists()] == []
    assert not capsys.readouterr().out  # and no table
