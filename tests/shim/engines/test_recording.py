"""Graphs that keep the adapters of the call that they were recorded from (E1, E5)."""

import copy

import pytest
import torch

import shim
from tests.shim.engines.rows import NAMES, distance, expect_rows, llama, sentences


class Mixed(torch.nn.Module):
    """A model whose rows have the adapters of `NAMES`."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        """Return the logits."""
        return self.model(input_ids=input_ids, attention_mask=attention_mask, adapter_names=NAMES).logits


def expect_refused(record, by):
    """Check that recording a mixed call is refused by name, and that the model goes on as before."""
    model, inputs = llama(), sentences(5)
    with pytest.raises(Exception) as refused:  # noqa: PT011 (looked at below)
        record(Mixed(model), tuple(inputs.values()))
    error = refused.value
    while error is not None and not isinstance(error, shim.RefusedError):
        error = error.__cause__ or error.__context__
    with torch.no_grad():
        expect_rows(model(**inputs, adapter_names=NAMES).logits, copy.deepcopy(model), inputs, NAMES)
    if error is None and not hasattr(getattr(torch, "compiler", None), "is_exporting"):  # torch 2.7
        pytest.skip(f"this torch raises an error of its own: {refused.value}")
    assert error is not None, refused.value
    assert by in str(error)


@pytest.mark.skipif(not hasattr(torch, "export"), reason="torch.export: torch 2.1")
def test_torch_export_is_refused():
    def export(model, args):
        try:
            return torch.export.export(model, args, strict=False)
        except TypeError:
            pytest.skip("this torch exports by dynamo only")

    expect_refused(export, "torch.export")


def test_torch_jit_trace_is_refused():
    expect_refused(torch.jit.trace, "torch.jit.trace")


def test_a_captured_cuda_graph_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    model, inputs = llama(), sentences(5)
    with pytest.raises(shim.RefusedError, match="a CUDA graph"):
        model(**inputs, adapter_names=NAMES)


@pytest.mark.skipif(not hasattr(torch, "export"), reason="torch.export: torch 2.1")
def test_a_call_without_names_is_exported_as_ever():
    model, inputs = llama(), sentences(5)
    model.set_adapter("de")
    with torch.no_grad():
        expected = model(**inputs).logits
        try:
            exported = torch.export.export(model, (), dict(inputs), strict=False)
        except Exception as error:
            with shim_out(), pytest.raises(type(error)):  # upstream does not export it either
                torch.export.export(model, (), dict(inputs), strict=False)
            return
        found = exported.module()(**inputs)
    assert distance(getattr(found, "logits", found), expected) <= 1e-9


class shim_out:
    """Upstream as it is, for a block."""

    def __enter__(self):
        shim.uninstall()

    def __exit__(self, *error):
        shim.install()
