"""The Triton kernels, where there is no GPU."""

import pytest
import torch


@pytest.fixture
def served(monkeypatch):
    """Let the kernels serve on the CPU, in blocks of which small shapes have several."""
    from shim.kernels import triton_lora
    from tests.shim.kernels.triton_rows import DEVICE, SMALL

    monkeypatch.setattr(triton_lora, "INTERPRETED", DEVICE == "cpu")
    monkeypatch.setattr(triton_lora, "blocks_for", lambda tokens, dtype: SMALL)
    with torch.no_grad():
        yield
