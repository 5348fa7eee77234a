"""A LoRA layer and every way to run it; the Triton kernels, where there is no GPU."""

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


@pytest.fixture(scope="module")
def linear():
    """A linear layer under the adapters of `lora_layers`."""
    from tests.shim.kernels.lora_layers import OUT, WIDTH, lora_layer

    return lora_layer(torch.nn.Linear(WIDTH, OUT))


@pytest.fixture(params=["chosen", "copied", "segments", "kept"])
def way(request, monkeypatch):
    """Force a kernel; the memory to call it with."""
    from shim.kernels import layer as kernels

    if request.param in ("copied", "segments"):
        monkeypatch.setattr(kernels, "pays_to_copy", lambda weights, tokens: request.param == "copied")
    with torch.set_grad_enabled(request.param != "kept"):  # with gradients nothing is kept
        yield lambda: kernels.Memory(keeps_weights=request.param == "kept")
