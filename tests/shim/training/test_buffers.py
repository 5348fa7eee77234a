"""What a model keeps in training mode besides its weights: no trace changes it, no adapter gets another's."""

import copy
import random

import numpy
import pytest
import torch

import shim
from tests.shim.training.trained import NAMES, assert_same, gradients, loss_of, noted, sequential


def test_a_trace_leaves_no_trace_in_buffers_nor_generators():
    model, x = noted(), torch.randn(4, 4, dtype=torch.float64)
    random.seed(1), numpy.random.seed(1)
    expected = random.random(), numpy.random.rand()
    random.seed(1), numpy.random.seed(1)
    model(x, adapter_names=NAMES)
    assert model.base_model.model.calls == 1
    random.seed(1), numpy.random.seed(1)
    model(x[:2], adapter_names=NAMES[:2])  # traced anew
    model.base_model.model.fails = True
    before = random.getstate()
    with pytest.raises(RuntimeError, match="planted"):
        model(x[:3], adapter_names=NAMES[:3])
    assert model.base_model.model.calls == 2
    assert random.getstate() == before
    random.seed(1), numpy.random.seed(1)
    assert (random.random(), numpy.random.rand()) == expected


def test_a_buffer_that_waits_for_a_backward_is_not_written_to():
    model, x = noted(normalises=True), torch.randn(4, 4, dtype=torch.float64)
    norm = model.base_model.model.norm.eval()
    loss = loss_of(model(x, adapter_names=NAMES))
    versions = [buffer._version for buffer in norm.buffers()]
    assert versions
    model(x[:3], adapter_names=NAMES[:3])  # a trace, beside a graph that holds the running mean
    assert [buffer._version for buffer in norm.buffers()] == versions
    loss.backward()


def test_a_buffer_that_keeps_what_adapters_change_is_not_shared_by_them():
    """One pass would keep the mean over all adapters' rows, so the batch is split, as it is when trained in turn."""
    x = torch.randn(4, 4, dtype=torch.float64)
    model = noted(keeps=True)
    explanation = shim.explain(model, {"x": x}, NAMES)
    assert explanation.route == "split"
    assert "the buffer base_model.model.kept is written with what adapters change" in explanation.reason
    assert not model.base_model.model.kept.any()


def test_batch_statistics_are_refused_by_name():
    model, x = noted(normalises=True), torch.randn(4, 4, dtype=torch.float64)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(shim.RefusedError, match=r"base_model\.model\.norm \(BatchNorm1d\).*\.eval\(\)"):
        model(x, adapter_names=NAMES)
    after = model.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)
    model(x, adapter_names=["ann"] * 4)  # its own ordinary forward
    model.base_model.model.norm.eval()

    def run(model, row):
        weights = torch.arange(16, dtype=torch.float64).cos().view(4, 4)
        return (model(x[row : row + 1]) * weights[row]).sum()

    loss_of(model(x, adapter_names=NAMES)).backward()
    again = noted(normalises=True)
    again.load_state_dict(model.state_dict())
    again.base_model.model.norm.eval()
    assert_same(gradients(model), sequential(again, run))
