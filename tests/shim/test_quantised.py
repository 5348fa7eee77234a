"""Quantised layers: each row its own where a layer keeps rows apart, refused by name where it does not.

The layers here need no package; `tests/conformance/methods/test_quantised.py` runs real quantisers.
"""

import importlib.util
import sys
import types

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

import shim
from shim.quantised import check_quantised, quantised_layers

WIDTH = 32
NAMES = ["ann", "ben", "__base__", "ann"]
THRESHOLD = 6.0


class Int8(nn.Linear):
    """Weights of eight bits; `forward` is the place of the kernels that differ."""

    def __init__(self, linear):
        super().__init__(linear.in_features, linear.out_features, bias=False)
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        self.register_buffer("quantised", (linear.weight.detach() / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)

    def product(self, x):
        return x @ (self.quantised * self.scale).t()

    def forward(self, x):
        return self.product(x)


class ByRow(Int8):
    def forward(self, x):
        scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-9) / 127
        return self.product((x / scale).round() * scale)


class ByTensor(Int8):
    def forward(self, x):
        scale = x.abs().max().clamp(min=1e-9) / 127
        return self.product((x / scale).round() * scale)


class WithoutOutliers(Int8):
    """As LLM.int8 (https://arxiv.org/abs/2208.07339): columns with an outlier in any row stay as they are."""

    def __init__(self, linear):
        super().__init__(linear)
        self.state = types.SimpleNamespace(threshold=THRESHOLD)

    def forward(self, x):
        taken_out = (x.abs() > self.state.threshold).reshape(-1, x.shape[-1]).any(0)
        rest = x.masked_fill(taken_out, 0)
        scale = rest.abs().amax(-1, keepdim=True).clamp(min=1e-9) / 127
        return self.product(torch.where(taken_out, x, (rest / scale).round() * scale))


class Random(Int8):
    def forward(self, x):
        return self.product(x) * (1 + 0.01 * torch.rand(()))


class Stubborn(Int8):
    def forward(self, x):
        if x.dim() == 2:
            raise RuntimeError("three dimensions, please")
        return self.product(x)


class Net(nn.Module):
    def __init__(self, kind, where):
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        setattr(self, where, kind(getattr(self, where)))
        self.config = {"model_type": "custom"}

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)) * 8)


def adapted(net):
    lora = LoraConfig(r=2, target_modules=["first"], init_lora_weights=False)
    model = get_peft_model(net, lora, adapter_name="ann")
    model.add_adapter("ben", lora)
    return model.eval().requires_grad_(False)


def model_of(kind, where="first"):
    torch.manual_seed(0)
    return adapted(Net(kind, where))


def samples():
    return 2 * torch.randn(len(NAMES), 3, WIDTH, generator=torch.Generator().manual_seed(1))


def alone(model, name, x):
    if name == "__base__":
        with model.disable_adapter():
            return model(x)
    model.set_adapter(name)
    return model(x)


def expect_own_rows(model, x):
    mixed = model(x, adapter_names=NAMES)
    for row, name in enumerate(NAMES):
        want = alone(model, name, x[row : row + 1])[0]
        assert torch.allclose(mixed[row], want, rtol=1e-4, atol=1e-5)
        others = [alone(model, other, x[row : row + 1])[0] for other in {*NAMES} - {name}]
        assert all((want - other).abs().max() > 0.05 for other in others)


@pytest.fixture(autouse=True)
def installed():
    shim.install()
    yield
    shim.uninstall()


@pytest.mark.parametrize("where", ["first", "second"])
@pytest.mark.parametrize("kind", [Int8, ByRow])
def test_rows_are_their_own_where_a_layer_keeps_them_apart(kind, where):
    model, x = model_of(kind, where), samples()
    expect_own_rows(model, x)
    assert shim.explain(model, {"x": x}, NAMES).route == "one pass"


@pytest.mark.parametrize("where", ["first", "second"])
@pytest.mark.parametrize("kind", [ByTensor, WithoutOutliers])
def test_a_layer_that_quantises_by_the_whole_batch_is_refused_by_name(kind, where):
    model, x = model_of(kind, where), samples()
    with pytest.raises(shim.RefusedError, match=rf"{where}.*{kind.__name__}.*by values of the whole batch"):
        model(x, adapter_names=NAMES)
    explained = shim.explain(model, {"x": x}, NAMES)
    assert explained.route == "refuse"
    assert "whole batch" in explained.reason
    assert torch.equal(model(x, adapter_names=["ann"] * len(NAMES)), alone(model, "ann", x))  # as it is by itself


def test_it_is_refused_for_a_reason():
    """Without the check these are silently wrong: rows with an outlier beside them are other rows."""
    model, x = model_of(WithoutOutliers), samples()
    x[1] *= 20
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shim.routing.plans.check_quantised", lambda _: None)
        mixed = model(x, adapter_names=NAMES)
    assert (mixed[0] - alone(model, "ann", x[:1])[0]).abs().max() > 1e-3


def test_the_message_names_the_way_out_and_it_is_one():
    model, x = model_of(WithoutOutliers), samples()
    with pytest.raises(shim.RefusedError, match=r"outlier beyond 6\.0 .*set \.state\.threshold = 0\.0"):
        model(x, adapter_names=NAMES)
    model.base_model.model.first.base_layer.state.threshold = float("inf")  # here 0 would take all columns out
    expect_own_rows(model, x)


def test_the_split_route_and_per_sample_outputs_refuse_it_too():
    model, x = model_of(ByTensor), samples()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shim.routing.rehearsal.find_layout", lambda *_: pytest.fail("was not asked"))
        with pytest.raises(shim.RefusedError, match="by values of the whole batch"):
            model(x, adapter_names=NAMES, per_sample=True)


def test_a_layer_that_gives_other_values_each_time_is_refused():
    model, x = model_of(Random), samples()
    state = torch.get_rng_state()
    with pytest.raises(shim.RefusedError, match="gives other values when it is run again"):
        model(x, adapter_names=NAMES)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_layer_that_cannot_be_tried_is_refused():
    model, x = model_of(Stubborn), samples()
    with pytest.raises(shim.RefusedError, match="could not be tried on two rows: RuntimeError: three dimensions"):
        model(x, adapter_names=NAMES)


@pytest.mark.parametrize("package", ["transformer_engine", "neural_compressor"])
def test_packages_that_keep_their_scales_are_refused_untried(package):
    class Kept(Int8):
        def forward(self, x):
            assert x.dim() == 3, "was tried"
            return self.product(x)

    Kept.__module__ = f"{package}.pytorch"
    model, x = model_of(Kept), samples()
    with pytest.raises(shim.RefusedError, match=f"{package}'s Kept.*scales of the whole batch"):
        model(x, adapter_names=NAMES)


def test_layers_of_floats_are_not_tried():
    model = model_of(lambda linear: linear)
    assert list(quantised_layers(model)) == []
    check_quantised(model)
    (found,) = quantised_layers(model_of(Int8))
    assert found[0].endswith("first.base_layer") or found[0].endswith("first")


# PEFT's layers for quantisers whose packages are not needed to define them, or that a stand-in defines.
LAYERS = {"awq": "AwqLoraLinear", "gptq": "GPTQLoraLinear", "aqlm": "AqlmLoraLinear", "eetq": "EetqLoraLinear"}
DISPATCHERS = {name: f"dispatch_{name}" for name in LAYERS}


def layer_class(package, monkeypatch):
    """Return PEFT's class; that of EETQ is defined only where its package is, so a copy of the file is run."""
    module = pytest.importorskip(f"peft.tuners.lora.{package}", reason="an older PEFT has no such layer")
    if hasattr(module, LAYERS[package]):
        return getattr(module, LAYERS[package])
    if package != "eetq":
        pytest.skip("an older PEFT calls it otherwise")
    stand_in = types.ModuleType("eetq")
    stand_in.EetqLinear = stand_in.EetqLinearMMFunction = Int8
    monkeypatch.setitem(sys.modules, "eetq", stand_in)
    monkeypatch.setattr("peft.import_utils.is_eetq_available", lambda: True)
    spec = importlib.util.spec_from_file_location("peft.tuners.lora.eetq_here", module.__file__)
    here = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(here)
    return here.EetqLoraLinear


@pytest.mark.parametrize("package", LAYERS)
def test_pefts_layers_for_other_quantisers_run_their_own_forward_by_adapter(package, monkeypatch):
    shim.uninstall()  # which takes classes that are there when it is installed
    cls = layer_class(package, monkeypatch)
    seen = []

    class Noted(cls):
        def forward(self, x, *args, **kwargs):
            seen.append((tuple(self.active_adapters), x.shape[0]))
            return super().forward(x, *args, **kwargs)

    def dispatch(target, adapter_name, **kwargs):
        return Noted(target, adapter_name, **kwargs) if isinstance(target, ByRow) else None

    monkeypatch.setattr(f"peft.tuners.lora.model.{DISPATCHERS[package]}", dispatch)
    model, x = model_of(ByRow), samples()
    shim.install()
    assert type(model.base_model.model.first) is Noted
    expect_own_rows(model, x)
    seen.clear()
    model(x, adapter_names=NAMES)
    by_adapter = [(names, rows) for names, rows in seen if names]
    assert {(("ann",), 2), (("ben",), 1)} <= set(by_adapter), seen
