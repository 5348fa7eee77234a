"""Crashes and hangs of a model end as verdicts of that model, whatever had been said before."""

import os
import signal
import time

import pytest

from conformance.models.every.classes import Entry
from conformance.settings import Settings
from conformance.sweep.finding import Finding, Judgement
from conformance.sweep.isolation import CAN_FORK
from conformance.sweep.stages import STAGES
from conformance.sweep.workshop import judged

pytestmark = pytest.mark.skipif(not CAN_FORK, reason="there is no fork here: nothing is isolated")

TOY = Entry("toy", "head", "ToyForCausalLM")
FIRST, SECOND, *LATER = STAGES


def worker(end):
    def work(entry, say):
        say(Judgement(Finding.ONE_PASS, error=0.0, separation=0.5, examples=3).verdict(entry.name, FIRST, 0.1))
        end()

    return work


def test_a_crash_is_one_verdict_for_each_stage_that_was_left():
    work = worker(lambda: os.kill(os.getpid(), signal.SIGKILL))
    found = {verdict.check: verdict for verdict in judged(TOY, Settings(), work=work)}
    assert list(found) == [FIRST, SECOND, *LATER]
    assert found[FIRST].finding == Finding.ONE_PASS.value
    assert {found[stage].finding for stage in (SECOND, *LATER)} == {Finding.CRASHED.value}
    assert "SIGKILL" in found[SECOND].detail
    assert SECOND in found[SECOND].detail
    assert found[SECOND].outcome.fails_the_run
    assert "every:toy+head" in found[SECOND].model


def test_a_hang_is_a_time_out():
    found = judged(TOY, Settings(), deadline=0.5, work=worker(lambda: time.sleep(60)))
    assert [verdict.finding for verdict in found] == [
        Finding.ONE_PASS.value,
        *[Finding.TIME_OUT.value] * len([SECOND, *LATER]),
    ]
    assert "time-out after" in found[1].detail


def test_a_worker_that_stops_early_is_no_silent_gap():
    found = judged(TOY, Settings(), work=worker(lambda: None))
    assert [verdict.finding for verdict in found][1:] == [Finding.CRASHED.value] * len([SECOND, *LATER])
    assert "ended early" in found[1].detail


def test_failures_can_be_run_again():
    def work(entry, say):
        for stage in STAGES:
            say(Judgement(Finding.WRONG, "row 1 differs").verdict(entry.name, stage, 0.1))

    (verdict, *_) = judged(TOY, Settings(with_shim=False), work=work)
    assert "--models every:toy+head --without-shim" in verdict.reproduction
