"""Quantised bases (contract L3): how each quantiser that runs on a CPU changes the linear layers of a small model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict

Change = Callable[[Any], Any]


@dataclass(frozen=True)
class Quantiser:
    """A way to quantise.

    package: what it is imported from. quantise: changes a model in the default dtype in place, its head excepted.
    """

    package: str
    quantise: Callable[[Any], None]


def _replaced(change: Change) -> Callable[[Any], None]:
    """Return what puts `change(layer)` in the place of every linear layer but the head."""

    def quantise(model: Any) -> None:
        import torch

        for path, layer in list(model.named_modules()):
            if type(layer) is torch.nn.Linear and path != "lm_head":
                owner, _, name = path.rpartition(".")
                setattr(model.get_submodule(owner), name, change(layer).eval())

    return quantise


def _bitsandbytes_8bit(threshold: float) -> Callable[[Any], None]:
    def change(layer: Any) -> Any:
        from bitsandbytes.nn import Int8Params, Linear8bitLt

        sizes = (layer.in_features, layer.out_features)
        quantised = Linear8bitLt(*sizes, bias=False, has_fp16_weights=False, threshold=threshold)
        quantised.weight = Int8Params(layer.weight.data.clone(), requires_grad=False, has_fp16_weights=False)
        return quantised.to("cpu")

    def quantise(model: Any) -> None:
        _replaced(change)(model)
        model.is_loaded_in_8bit = True  # PEFT asks for it

    return quantise


def _bitsandbytes_4bit(model: Any) -> None:
    def change(layer: Any) -> Any:
        from bitsandbytes.nn import Linear4bit, Params4bit

        quantised = Linear4bit(layer.in_features, layer.out_features, bias=False, quant_type="nf4")
        quantised.weight = Params4bit(layer.weight.data.clone(), requires_grad=False, quant_type="nf4")
        # Processors with AVX512-BF16 have a kernel that rounds to bfloat16 whatever the precision, by the number of
        # rows: rows alone would differ from the batch by that rounding.
        quantised.support_avx512bf16_for_cpu = False
        return quantised.to("cpu")

    _replaced(change)(model)
    model.is_loaded_in_4bit = True


def _torchao(name: str, granularity: str = "") -> Callable[[Any], None]:
    def quantise(model: Any) -> None:
        import torch
        from torchao import quantization

        settings = {"granularity": getattr(quantization, granularity)()} if granularity else {}
        quantization.quantize_(
            model,
            getattr(quantization, name)(**settings),
            filter_fn=lambda layer, path: type(layer) is torch.nn.Linear and path != "lm_head",
        )

    return quantise


def _hqq(layer: Any) -> Any:
    import torch
    from hqq.core.quantize import BaseQuantizeConfig, HQQBackend, HQQLinear

    HQQLinear.set_backend(HQQBackend.PYTORCH)
    config = BaseQuantizeConfig(nbits=4, group_size=64)
    return HQQLinear(layer, config, compute_dtype=torch.get_default_dtype(), device="cpu")


def _quanto(weights: str, activations: str = "") -> Callable[[Any], None]:
    def quantise(model: Any) -> None:
        import torch
        from optimum import quanto

        kinds = {"weights": getattr(quanto, weights)}
        if activations:
            kinds["activations"] = getattr(quanto, activations)
        quanto.quantize(model, exclude=["lm_head"], **kinds)
        if activations:  # their scales are settled once, here
            with quanto.Calibration():
                model.eval()(input_ids=torch.arange(12).view(2, 6))
        quanto.freeze(model)

    return quantise


def _gptqmodel(module: str, name: str) -> Callable[[Any], None]:
    """Random integers of 4 bits: a layer of its own is as good as one that was fitted to the first."""

    def change(layer: Any) -> Any:
        import importlib

        import torch

        cls = getattr(importlib.import_module(f"gptqmodel.nn_modules.qlinear.{module}"), name)
        sizes = {"in_features": layer.in_features, "out_features": layer.out_features}
        quantised = cls(bits=4, group_size=32, sym=True, desc_act=False, register_buffers=True, **sizes)
        generator = torch.Generator().manual_seed(layer.in_features)
        for packed in (quantised.qweight, quantised.qzeros):
            packed.copy_(torch.randint(-(2**31), 2**31 - 1, packed.shape, generator=generator))
        quantised.scales.copy_(0.01 + 0.01 * torch.rand(quantised.scales.shape, generator=generator))
        quantised.post_init()
        return quantised

    return _replaced(change)


def _aqlm(layer: Any) -> Any:
    import numba
    import torch
    from aqlm import QuantizedLinear

    numba.set_num_threads(1)  # the threads of its kernel add to one sum, and lose some of it

    quantised = QuantizedLinear(layer.in_features, layer.out_features, 8, 1, 1, 8, bias=False)
    generator = torch.Generator().manual_seed(layer.in_features)
    quantised.codes.data = torch.randint(-128, 127, quantised.codes.shape, generator=generator, dtype=torch.int8)
    quantised.codebooks.data = 0.1 * torch.randn(quantised.codebooks.shape, generator=generator)
    quantised.scales.data = torch.ones(quantised.scales.shape)
    quantised.to(torch.get_default_dtype())
    return quantised


QUANTISERS: Dict[str, Quantiser] = {
    "bitsandbytes-8bit": Quantiser("bitsandbytes", _bitsandbytes_8bit(0.0)),
    "bitsandbytes-8bit-outliers": Quantiser("bitsandbytes", _bitsandbytes_8bit(6.0)),
    "bitsandbytes-4bit": Quantiser("bitsandbytes", _bitsandbytes_4bit),
    "torchao-int8": Quantiser("torchao", _torchao("Int8WeightOnlyConfig")),
    "torchao-float8": Quantiser("torchao", _torchao("Float8WeightOnlyConfig")),
    "torchao-int8-per-tensor": Quantiser("torchao", _torchao("Int8DynamicActivationInt8WeightConfig", "PerTensor")),
    "hqq-4bit": Quantiser("hqq", _replaced(_hqq)),
    "quanto-int8": Quantiser("optimum.quanto", _quanto("qint8")),
    "quanto-int8-activations": Quantiser("optimum.quanto", _quanto("qint8", "qint8")),
    "quanto-int4": Quantiser("optimum.quanto", _quanto("qint4")),
    "gptq-4bit": Quantiser("gptqmodel", _gptqmodel("torch", "TorchLinear")),
    "aqlm": Quantiser("aqlm", _replaced(_aqlm)),
}
"""By the names that `method:LORA+on-NAME` has them by."""
