"""Where the Triton kernels serve: what they cannot take goes elsewhere, and a device must pass a trial first."""

import copy
import warnings

import pytest
import torch
from torch import nn

from shim.kernels import triton_lora
from tests.shim.kernels.triton_rows import (
    DEVICE,
    NAMES,
    Layer,
    alone,
    by_triton,
    check_rows,
    fused,
    inputs,
    table_of,
)

pytest.importorskip("triton", reason="Triton is not installed: pip install 'mixed-adapter-batches[gpu]'")
pytestmark = pytest.mark.usefixtures("served")


def test_what_the_kernels_cannot_take_goes_elsewhere():
    def layer(**changed):
        return Layer(23, 37, [2, 8, 17, 1], [1.0, 0.5, 2.0, -1.0], **changed)

    def with_(change):
        made = layer()
        change(made)
        return made

    def turned(made):
        made.lora_A["ann"].weight = nn.Parameter(made.lora_A["ann"].weight.t().contiguous().t())

    def biased(made):
        made.lora_B["ann"].bias = nn.Parameter(torch.ones(37, device=DEVICE))

    def halved(made):
        made.lora_B["ann"].bfloat16()

    names = ["ann", "ben", "__base__"]
    x = inputs(3, 2, 23)
    assert fused(layer(), x, table_of(names))
    assert fused(layer(dtype=torch.float64), x, table_of(names)) is None
    assert fused(layer(), x.double(), table_of(names)) is None
    for change in (turned, biased, halved):
        assert fused(with_(change), x, table_of(names)) is None
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        assert fused(layer(), x, table_of(names)) is None
    with torch.enable_grad():
        assert fused(layer(), x, table_of(names)) is None
        assert fused(layer().requires_grad_(False), x, table_of(names))
        assert fused(layer().requires_grad_(False), x.clone().requires_grad_(), table_of(names)) is None
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False):
        assert fused(layer(), x, table_of(names)) is None


def test_weights_of_two_dtypes_are_launched_apart():
    layer = Layer(23, 37, [2, 8, 17, 1], [1.0, 0.5, 2.0, -1.0], torch.bfloat16)
    layer.lora_A["ben"].float()
    layer.lora_B["ben"].float()
    names = ["ann", "ben", "__base__", "cat", "ben"]
    assert len(fused(layer, inputs(5, 2, 23, torch.bfloat16), table_of(names)).launches) == 2
    check_rows(layer, inputs(5, 2, 23, torch.bfloat16), names)


@pytest.mark.parametrize("grad", ["of the base", "none"])
def test_an_output_that_the_kernels_may_not_write_is_added_to_by_torch(grad):
    layer = Layer(23, 37, [2, 8, 17, 1], [1.0, 0.5, 2.0, -1.0]).requires_grad_(False)
    names, x = ["ann", "ben", "__base__"], inputs(3, 2, 23)
    exact = alone(copy.deepcopy(layer).double(), x.double(), names)
    with torch.enable_grad():
        if grad == "none":
            layer.base_layer.double().register_forward_pre_hook(lambda _, args: (args[0].double(),))
        else:
            layer.base_layer.requires_grad_()
        found = by_triton(layer, x, names)
    assert found.dtype is (torch.float64 if grad == "none" else torch.float32)
    assert found.requires_grad is (grad != "none")
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-4)


@pytest.mark.skipif(DEVICE != "cpu", reason="there is CUDA")
def test_the_cpu_is_served_in_the_interpreter_only(monkeypatch):
    monkeypatch.setattr(triton_lora, "INTERPRETED", False)
    assert fused(Layer(8, 8, [2] * 4, [1.0] * 4), inputs(2, 1, 8), table_of(["ann", "ben"])) is None


@pytest.mark.parametrize("how", ["right", "wrong", "raises", "too old", "no triton"])
def test_a_device_is_served_where_the_trial_is_right(monkeypatch, how):
    def tries(device):
        if how == "raises":
            raise RuntimeError("Failed to find C compiler")
        return how == "right"

    monkeypatch.setattr(triton_lora, "tries", tries)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5) if how == "too old" else (9, 0))
    if how == "no triton":
        monkeypatch.setattr(triton_lora.importlib.util, "find_spec", lambda name: None)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert triton_lora.works_on.__wrapped__(torch.device("cuda")) is (how == "right")
    assert ["C compiler" in str(warning.message) for warning in said] == [True] * (how == "raises")


# ---- through the shim


def test_a_model_under_the_shim_runs_its_linear_layers_so(monkeypatch):
    peft = pytest.importorskip("peft")
    import shim

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(23, 40), nn.Linear(40, 37)

        def forward(self, x):
            return self.second(torch.relu(self.first(x)))

    torch.manual_seed(0)
    model = None
    for name, rank in zip(NAMES, (2, 16, 40, 5)):
        targets = ["first", "second"] if name != "ben" else ["second"]
        config = peft.LoraConfig(r=rank, target_modules=targets, init_lora_weights=False)
        if model is None:
            model = peft.get_peft_model(Net(), config, adapter_name=name)
        else:
            model.add_adapter(name, config)
    model = model.eval().to(DEVICE)
    names, x = ["cat", "ben", "__base__", "ann", "cat", "dan"], inputs(6, 3, 23)
    served = []
    original = triton_lora.Launch.add
    monkeypatch.setattr(triton_lora.Launch, "add", lambda self, *args: served.append(self) or original(self, *args))
    shim.install()
    try:
        mixed = model(x, adapter_names=names)
        assert [len(launch.table.adapters) for launch in served] == [3, 4]
        rows = [model(x[row : row + 1], adapter_names=[name]) for row, name in enumerate(names)]
    finally:
        shim.uninstall()
    torch.testing.assert_close(mixed, torch.cat(rows), rtol=1e-5, atol=1e-5)
    assert (torch.cat(rows[1:]) - torch.cat(rows[:-1])).abs().amax((1, 2)).min() > 0.1
