"""Any sequence of steps agrees with a plain model of it (contract S4; with S1, S2, S5, S7, H3, A1)."""

import os
import unittest.mock
import warnings

import hypothesis
import peft
from hypothesis.stateful import run_state_machine_as_test

from tests.shim.state.machine import StateMachine

# A soak: SHIM_STATE_EXAMPLES=5000 pytest tests/shim/state/test_machine.py
EXAMPLES = int(os.environ.get("SHIM_STATE_EXAMPLES", "200"))


def run(machine, examples=EXAMPLES, derandomize="SHIM_STATE_EXAMPLES" not in os.environ, **more):
    settings = hypothesis.settings(
        max_examples=examples,
        stateful_step_count=20,
        derandomize=derandomize,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        **more,
    )
    card = "create_or_update_model_card"  # a page that nothing reads, and half of the time
    with warnings.catch_warnings(), unittest.mock.patch.object(peft.PeftModel, card):
        warnings.simplefilter("ignore")  # upstream's, of merging, of deleting, of adapters that are frozen on purpose
        run_state_machine_as_test(machine, settings=settings)


def test_any_sequence_of_steps_agrees_with_the_plain_model(installed_shim):
    StateMachine.counts.clear()
    run(StateMachine)
    counts = StateMachine.counts
    print(counts)
    assert counts["with power"] > 20 * counts["without power"], counts
