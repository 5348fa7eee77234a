"""The page of what benches found: every measurement stands in its case's line, under its way."""

from conformance.__main__ import main
from conformance.bench.measurements import Row, write
from conformance.bench.page import render, rows_of
from conformance.report.benches import read

ROWS = [
    Row("width 8, 2 adapters: shim", 1.234, "x single", target=1.1),
    Row("width 8, 2 adapters: PEFT", 2.5, "x single"),
    Row("width 8, 4 adapters: shim", 1.5, "x single", floor=1.25),
    Row("a call", 0.8, "ms"),
]


def lines(text):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]


def test_cases_go_down_and_ways_across(tmp_path):
    write(ROWS, str(tmp_path / "some.json"))
    written = read(tmp_path / "some.json")
    assert rows_of(written) == ROWS
    found = lines(render([written]))
    assert found[0] == ["case", "shim", "PEFT", "at most", "floor"]
    assert found[2] == ["width 8, 2 adapters", "1.23", "2.5", "1.1", ""]
    assert found[3] == ["width 8, 4 adapters", "1.5", "", "", "1.25"]
    assert found[4] == ["case", "value", "at most", "floor"]
    assert found[6] == ["a call", "0.8", "", ""]


def test_the_command_writes_it_and_measures_nothing(tmp_path, capsys):
    write(ROWS, str(tmp_path / "some.json"))
    page = tmp_path / "cost.md"
    assert main(["bench", "--from", str(tmp_path / "some.json"), "--markdown", str(page)]) == 0
    assert page.read_text().startswith("# Cost")
    assert "a call" in capsys.readouterr().out
    assert main(["bench", "adapters", "--markdown", str(page)]) != 0
    assert "--from" in capsys.readouterr().err
