"""The documentation runs: its Python is executed, its commands parse, its links lead somewhere, its paths exist."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import conformance.__main__
import shim
import shim.__main__
from conformance.checks import CHECKS
from conformance.proof import page as proof
from conformance.proof.fault import load
from conformance.proof.tally import read
from shim.routing.rules import RULES
from tests.pages import Block, Page, broken_links, commands, expect_printed

ROOT = Path(__file__).parents[1]
FAULTS = load("tests.faults")
GENERATED = ("contract", "cost", "models", "methods", "proof", "versions")  # whose code is of runs that have been
PAGES = [
    Page.read(path)
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    if path.stem not in GENERATED
]
EACH = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path.stem)


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """A folder of its own, where modules are found, and no shim; what is registered meanwhile is taken back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = [dict(registry) for registry in (CHECKS, RULES, FAULTS)]
    shim.uninstall()
    yield
    shim.install()  # with the options that hold by default
    shim.uninstall()
    for registry, entries in zip((CHECKS, RULES, FAULTS), before):
        registry.clear()
        registry.update(entries)
    for name in [name for name in sys.modules if name.split(".")[0] == "my_package"]:
        del sys.modules[name]


@pytest.fixture
def parse(monkeypatch):
    """Tell whether a program takes these arguments, without running what they ask for."""
    monkeypatch.setattr(shim.__main__, "_run", lambda arguments: 0)
    monkeypatch.setattr(shim, "status", tuple)

    def parsed(program, arguments):
        if program == "shim":
            return shim.__main__.main(arguments) == 0
        try:
            conformance.__main__._parser().parse_args(arguments)
        except SystemExit as left:
            return left.code == 0
        return True

    return parsed


@EACH
def test_the_blocks_of_python_run(page, alone):
    page.run()


@EACH
def test_the_commands_parse(page, parse):
    for program, arguments in commands(page):
        if program in ("shim", "conformance"):
            assert parse(program, arguments), f"python -m {program} {' '.join(arguments)}"


@pytest.mark.parametrize("page", [Page.read(path) for path in sorted((ROOT / "docs").glob("*.md"))] + PAGES[:2])
def test_links_lead_somewhere(page):
    assert broken_links(page) == []


@EACH
def test_pages_of_the_site_link_within_it(page):
    if page.path.parent.name == "docs":
        assert [target for target in page.links if target.startswith("..")] == []


@EACH
def test_paths_exist(page):
    assert [path for path in page.paths if not (ROOT / path).exists()] == []


def test_every_planted_fault_is_on_the_page_with_the_check_that_caught_it():
    text = (ROOT / "docs/proof.md").read_text("utf-8")
    rows = re.findall(r"^\| ([a-z0-9 ]+) \| `([\w/.:]+)` \|.*\| (\d+) of (\d+)", text, re.MULTILINE)
    missing = re.search(r"^Not run yet, \d+: (.+)\.$", text, re.MULTILINE)
    left = [(name, FAULTS[name.replace(" ", "_")].check) for name in (missing[1].split("; ") if missing else ())]
    said = {name.replace(" ", "_"): check for name, check in [row[:2] for row in rows] + left}
    assert said == {name: fault.check for name, fault in FAULTS.items()}
    assert [name for name, _, caught, runs in rows if int(caught) < 0.95 * int(runs)] == []


def test_the_proof_is_the_page_of_its_results():
    made = proof.render(read(ROOT / "results/proof/faults.jsonl"), ROOT / "results")
    assert (ROOT / "docs/proof.md").read_text("utf-8") == made


def test_the_badge_is_of_the_results(tmp_path, capsys):
    runs = sorted(map(str, (ROOT / "results/matrix").glob("*-with-shim.jsonl")))
    assert conformance.__main__.main(["report", *runs, "--badge", str(tmp_path / "badge.svg")]) == 0
    assert (ROOT / "docs/badge.svg").read_text("utf-8") == (tmp_path / "badge.svg").read_text("utf-8")


def test_every_page_is_in_the_sites_navigation():
    listed = re.findall(r"\b([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


@pytest.mark.skipif(find_spec("material") is None, reason="mkdocs-material: the extra docs")
def test_the_site_is_built_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    subprocess.run(command, cwd=ROOT, check=True)
    assert {path.stem for path in (tmp_path / "site").glob("*.html")} >= {"index", "contract", "versions"}


def test_the_readme_is_a_front_door():
    assert PAGES[0].path.name == "README.md"
    assert len(PAGES[0].text.splitlines()) <= 150


def test_the_readme_has_the_command_that_runs_the_tests():
    found = re.findall(r"^<!-- test command -->\n```bash\n(.+)\n```\n<!-- end -->$", PAGES[0].text, re.MULTILINE)
    assert len(found) == 1
    assert "pytest" in found[0]


# What asserts here is seen to fail.


def page_of(text, path=ROOT / "docs/index.md"):
    return Page(path, text)


def test_a_block_that_fails_fails_at_its_line():
    with pytest.raises(ZeroDivisionError) as failed:
        page_of("Words.\n\n```python\nx = 1\n```\n\n<!-- setup:\ny = 0\n-->\n\n```python\nx / y\n```\n").run()
    assert failed.traceback[-1].lineno + 1 == 12


@pytest.mark.parametrize(("shown", "right"), [("a b c", True), ("a … c", True), ("a … d", False), ("a", False)])
def test_what_is_printed_is_held_against_what_is_shown(shown, right):
    block = Block("text", shown + "\n", 3)
    if right:
        expect_printed(block, "a b c\n", ROOT)
    else:
        with pytest.raises(AssertionError, match=":3 shows"):
            expect_printed(block, "a b c\n", ROOT)


def test_a_page_holds_what_its_block_prints_against_its_text():
    page_of("```python\nprint('a', 'b')\n```\n\n```text\na …\n```\n").run()
    with pytest.raises(AssertionError):
        page_of("```python\nprint('b')\n```\n\n```text\na\n```\n").run()


@pytest.mark.parametrize(
    ("line", "right"),
    [
        ("python -m conformance run -n auto", True),
        ("python -m conformance run --modles all", False),
        ("python -m venv x && x/bin/python -m conformance bench nothing", False),
        ("python -m shim status   # every patch", True),
        ("python -m shim run -m my.module --fast", True),
        ("python -m shim stat", False),
        ("python -m conformance run \\\n    --quick --wrong", False),
    ],
)
def test_a_wrong_command_is_found(line, right, parse):
    ((program, arguments),) = (c for c in commands(page_of(f"```bash\n{line}\n```\n")) if c[0] != "venv")
    assert parse(program, arguments) is right


def test_a_link_to_nowhere_is_found():
    page = page_of(
        "# The way\n\n[a](#the-way) [b](#a-way) [c](models.md#exceptions) [d](models.md#none) [e](none.md)\n"
        "[f](https://example.org) ![g](with-and-without.svg) ![h](none.svg)"
    )
    assert broken_links(page) == ["#a-way", "models.md#none", "none.md", "none.svg"]


def test_a_path_to_nowhere_is_found():
    assert page_of("`shim/patch.py`, `shim/kernels/`, `tests/none.py`").paths == [
        "shim/patch.py", "shim/kernels/", "tests/none.py",
    ]  # fmt: skip
