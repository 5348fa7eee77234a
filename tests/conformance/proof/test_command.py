"""`python -m conformance prove`: what it exits with, what it writes, and that it goes on where it was."""

import pytest

from conformance.__main__ import main
from conformance.proof.tally import Proof, Tally, read, write
from conformance.report.jsonl import FORMAT
from tests.conformance.proof.conftest import TOYS

SEEN = "the_names_are_read_backwards"
SOME = ["prove", "--faults", TOYS, "--scenarios", "2"]


def test_a_fault_that_is_caught_every_time_is_shown_and_written(toys, tmp_path, capsys):
    report, page = tmp_path / "proof.jsonl", tmp_path / "proof.md"
    written = ["--report", str(report), "--markdown", str(page), "--results", str(tmp_path)]
    assert main([*SOME, "--only", SEEN, "--seeds", "2", *written]) == 0
    assert "1 faults, caught in 2 of 2 runs; 0 false alarms in 2 scenarios" in capsys.readouterr().out
    assert [(one.fault, one.right, one.runs) for one in read(report).tallies] == [("", 1, 1), (SEEN, 2, 2)]
    assert "| the names are read backwards | `each_row_equals_its_own_run` |" in page.read_text("utf-8")
    assert main([*SOME, "--only", SEEN, "--seeds", "3", *written, "--resume"]) == 0
    assert "1/1: the_names_are_read_backwards" in capsys.readouterr().out
    assert main([*SOME, "--only", SEEN, "--seeds", "3", "--examples", "1", *written, "--resume"]) == 0
    assert "starting anew" in capsys.readouterr().out


def test_a_fault_that_is_not_caught_fails(toys, capsys):
    assert main([*SOME, "--seeds", "1"]) == 1
    assert "nothing_at_all: each_row_equals_its_own_run on integers: caught 0 of 1" in capsys.readouterr().out


def test_a_run_that_ends_early_says_so(toys, capsys):
    assert main([*SOME, "--only", SEEN, "--seeds", "2", "--minutes", "1e-9"]) == 4


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--faults", "no.such.faults"], "--faults no.such.faults"),
        (["--faults", TOYS, "--only", "nobody"], "--only nobody"),
        (["--faults", TOYS, "--resume"], "--resume needs --report"),
        (["--page-only"], "--page-only writes --markdown PATH from --report PATH"),
    ],
)
def test_wrong_usage_is_said(toys, capsys, wrong, said):
    assert main(["prove", *wrong]) == 2
    assert said in capsys.readouterr().err


def test_the_page_is_written_of_counts_that_are_there(tmp_path):
    report, page = tmp_path / "proof.jsonl", tmp_path / "proof.md"
    one = Tally("rows_shifted", "a_check", "bert", "split", ("R1",), 0, 3, 3)
    write(report, Proof({"kind": "proof", "format": FORMAT}, (one,)))
    assert main(["prove", "--page-only", "--report", str(report), "--markdown", str(page)]) == 0
    assert "| rows shifted | `a_check` | R1 | bert | split | 3 of 3 |" in page.read_text("utf-8")
