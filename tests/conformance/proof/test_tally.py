"""Counts are kept line by line, and put together again."""

import json

import pytest

from conformance.proof.tally import Proof, Tally, merged, read, to_json, write
from conformance.report.jsonl import FORMAT, ReportError

HEADER = {"kind": "proof", "format": FORMAT, "settings": {"examples": 2}}


def tally(begin, end, right=None, fault="rows_shifted", **more):
    right = end - begin if right is None else right
    return Tally(fault, "a_check", "bert", "split", ("R1",), begin, end, right, **more)


def test_batches_of_seeds_that_follow_each_other_are_one():
    (one,) = merged([tally(10, 20, 9, wrong=((13, "pass: "),), seconds=1.0), tally(0, 10, said="differs", seconds=2.0)])
    assert (one.begin, one.end, one.right, one.wrong) == (0, 20, 19, ((13, "pass: "),))
    assert (one.said, one.seconds, one.runs) == ("differs", 3.0, 20)


def test_seeds_after_a_gap_are_left_out_so_that_they_are_run_again():
    (one,) = merged([tally(20, 30), tally(0, 10)])
    assert one.end == 10
    assert Proof(HEADER, (one,)).done(one.key) == 10
    assert Proof(HEADER, (one,)).done(("another", "", "", "")) == 0


def test_a_proof_is_read_as_it_was_written(tmp_path):
    proof = Proof(HEADER, merged([tally(0, 2, 1, wrong=((1, "pass: "),)), tally(0, 1, fault="", scenarios=2)]))
    write(tmp_path / "proof.jsonl", proof)
    assert read(tmp_path / "proof.jsonl") == proof


def test_a_line_that_a_killed_run_left_unfinished_is_passed_over(tmp_path):
    path = tmp_path / "proof.jsonl"
    write(path, Proof(HEADER, (tally(0, 2),)))
    path.write_text(path.read_text() + to_json(tally(2, 4))[:-9])
    assert [one.end for one in read(path).tallies] == [2]


@pytest.mark.parametrize(
    "text", ["", "{}\n", json.dumps({**HEADER, "format": 0}) + "\n", json.dumps(HEADER) + "\n{}\n"]
)
def test_what_is_no_proof_is_said(tmp_path, text):
    path = tmp_path / "proof.jsonl"
    path.write_text(text)
    with pytest.raises(ReportError, match=r"proof\.jsonl, line \d"):
        read(path)


def test_a_fault_caught_too_seldom_and_an_alarm_are_found():
    seldom, often = tally(0, 100, 94, fault="seldom"), tally(0, 100, 95, fault="often")
    alarm = tally(0, 10, 9, fault="", wrong=((3, "fail: "),))
    proof = Proof(HEADER, (seldom, often, alarm))
    assert proof.uncaught(0.95) == [seldom]
    assert proof.alarms == [alarm]
