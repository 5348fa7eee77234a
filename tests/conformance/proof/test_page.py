"""The page says what was counted: no fault more often caught than it was."""

import json

from conformance.proof.page import line, render, summary
from conformance.proof.tally import Proof, Tally
from conformance.report.environment import header
from conformance.report.jsonl import Report, footer, write
from conformance.settings import Settings
from conformance.verdict import Outcome, Verdict

CAUGHT = Tally("rows_shifted", "a_check", "bert", "split", ("R1", "R7"), 0, 20, 20, raised=2)
MISSED = Tally("beams_tiled", "b_check", "t5", "one pass", ("G4",), 0, 10, 9, wrong=((3, "pass: "),))
CLEAN = Tally("", "a_check", "bert", "split", ("R1", "R7"), 0, 20, 20, scenarios=40)
ALARM = Tally("", "b_check", "t5", "one pass", ("G4",), 0, 20, 19, scenarios=39, wrong=((7, "fail: differs"),))
HEADER = {"settings": {"examples": 2}, "environment": {"packages": {"torch": "2.13"}}}


def test_every_fault_has_a_row_with_its_counts(tmp_path):
    page = render(Proof(HEADER, (CAUGHT, MISSED)), tmp_path)
    assert "| rows shifted | `a_check` | R1, R7 | bert | split | 20 of 20 (2 by an error raised) |" in page
    assert "| beams tiled | `b_check` | G4 | t5 | one pass | 9 of 10 |" in page
    assert "2 faults, 10 to 20 seeds each, 2 scenarios a run" in page
    assert "the faults caught in 29 of 30 runs" in page


def test_a_fault_that_was_not_run_is_named(tmp_path):
    page = render(Proof({**HEADER, "planted": ["beams_tiled", "rows_shifted"]}, (CAUGHT,)), tmp_path)
    assert "Not run yet, 1: beams tiled.\n" in page


def test_false_alarms_are_counted_and_told(tmp_path):
    assert "0 false alarms in 40 scenarios" in render(Proof(HEADER, (CLEAN,)), tmp_path)
    page = render(Proof(HEADER, (CLEAN, ALARM)), tmp_path)
    assert "1 false alarms in 79 scenarios" in page
    assert "- `b_check` on t5, seed 7: fail: differs" in page


def test_old_versions_and_mutants_are_shown_where_there_are_results(tmp_path):
    (tmp_path / "matrix").mkdir()
    (tmp_path / "proof").mkdir()
    verdicts = (Verdict("bert", "a", ("R1",), Outcome.FAIL, "wrong"), Verdict("vit", "a", ("R2",), Outcome.PASS))
    packages = {"torch": "2.0.1", "transformers": "4.36.2", "peft": "0.10.0"}
    about = header(Settings(with_shim=False))
    about["environment"]["packages"] = packages
    write(
        tmp_path / "matrix" / "c02-without-shim.jsonl",
        Report(about, verdicts, footer(verdicts, seconds=1, complete=True)),
    )
    file = {"file": "shim/patch.py", "tests": ["tests/shim/test_patch.py"], "mutants": 3, "killed": 2, "survived": 1}
    survivor = {"file": "shim/patch.py", "function": "_name", "mutant": "x or y -> x and y", "reason": "words only"}
    mutants = {"tool": "mutmut 3", "left_out": "", "files": [file], "survivors": [survivor]}
    (tmp_path / "proof" / "mutants.json").write_text(json.dumps(mutants))
    page = render(Proof({}, ()), tmp_path)
    assert "| 0.10.0 | 2.0.1 | 4.36.2 | 1 | 2 | R1 | 0 |" in page
    assert "| `shim/patch.py` | `tests/shim/test_patch.py` | 3 | 2 | 1 |" in page
    assert "| `shim/patch.py`, `_name` | `x or y -> x and y` | words only |" in page


def test_what_is_wrong_is_said_on_the_terminal():
    said = summary(Proof(HEADER, (CAUGHT, MISSED, ALARM)), 0.95)
    assert "beams_tiled: b_check on t5: caught 9 of 10 (0 s); seed 3: pass: " in said
    assert "no fault: b_check on t5: 1 alarms" in said
    assert "rows_shifted" not in said
    assert "2 faults, caught in 29 of 30 runs; 1 false alarms in 39 scenarios" in said
    assert line(CAUGHT).startswith("rows_shifted: a_check on bert: caught 20 of 20")
