"""The few-line models that probes run; building one leaves the random generators as they were."""

from __future__ import annotations

from typing import Any, Sequence

ROUNDING = 1e-3
"""What a sum in float32 may be off by, relative to its size, beside defects of a tenth and more."""


def folded(fold: int) -> Any:
    """Return a model with adapters `one` and `two` whose layer sees each sample `fold` times, and an input."""
    import torch
    from peft import LoraConfig, get_peft_model

    class Folded(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows: torch.Tensor = self.linear(x.repeat_interleave(fold, 0))
            return rows[::fold]

    with torch.random.fork_rng(devices=[]):
        config = LoraConfig(target_modules=["linear"], r=1, init_lora_weights=False)
        model = get_peft_model(Folded(), config, adapter_name="one")
        model.add_adapter("two", config)
    return model.eval(), torch.ones(2, 2)


def with_own_adapters() -> Any:
    """Return a model of transformers that takes any keyword, with adapters `one` and `two` in it, and an input."""
    import torch
    from peft import LoraConfig, inject_adapter_in_model
    from transformers import PretrainedConfig, PreTrainedModel

    class Own(PreTrainedModel):  # type: ignore[misc]
        config_class = PretrainedConfig

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.linear = torch.nn.Linear(2, 2)

        def forward(self, x: torch.Tensor, **kwargs: Any) -> torch.Tensor:
            rows: torch.Tensor = self.linear(x)
            return rows

    with torch.random.fork_rng(devices=[]):
        model = Own(PretrainedConfig())
        for name in ("one", "two"):
            inject_adapter_in_model(LoraConfig(target_modules=["linear"], r=1, init_lora_weights=False), model, name)
    return model.eval(), torch.ones(2, 2)


def own_saved_modules() -> Any:
    """Return a model of transformers with adapters `one` and `two` in it; see `two_saved_modules`. `two` is active."""
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

    class Own(PreTrainedModel):  # type: ignore[misc]
        config_class = PretrainedConfig

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.linear, self.first, self.second = (torch.nn.Linear(2, 2) for _ in range(3))

    with torch.random.fork_rng(devices=[]):
        model = Own(PretrainedConfig())
        model.add_adapter(_saving("first"), adapter_name="one")
        model.add_adapter(_saving("second"), adapter_name="two")
    _number_weights(model)
    return model.eval()


def two_saved_modules() -> Any:
    """Return a model whose adapter `one` saves `first` and whose adapter `two` saves `second`; `one` is active.

    Every saved weight is that of its adapter: 1 for `one`, 2 for `two`, while the base model's are 0.
    """
    import torch
    from peft import get_peft_model

    class TwoHeads(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(2, 2)
            self.first = torch.nn.Linear(2, 2)
            self.second = torch.nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows: torch.Tensor = self.second(self.first(self.linear(x)))
            return rows

    with torch.random.fork_rng(devices=[]):
        model = get_peft_model(TwoHeads(), _saving("first"), adapter_name="one")
        model.add_adapter("two", _saving("second"))
    _number_weights(model)
    return model.eval()


def disabled_with_a_new_layer() -> Any:
    """Return a disabled model to which an adapter came on a layer that had none."""
    import torch
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng(devices=[]):
        layers = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
        model: Any = get_peft_model(layers, LoraConfig(target_modules=["0"], r=1), adapter_name="one")
        model.disable_adapter_layers()
        model.add_adapter("two", LoraConfig(target_modules=["1"], r=1))
    return model


def gap_of_a_sum(weights: Sequence[float], use_rslora: bool = False, **how: Any) -> float:
    """Return how far what PEFT combines of as many adapters as there are weights is from their sum, relative to it."""
    import torch
    from peft import LoraConfig, get_peft_model

    names = [f"part{index}" for index in range(len(weights))]
    config = LoraConfig(target_modules=["0"], r=2, lora_alpha=6, use_rslora=use_rslora, init_lora_weights=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = get_peft_model(torch.nn.Sequential(torch.nn.Linear(3, 3)), config, adapter_name=names[0])
        for name in names[1:]:
            model.add_adapter(name, config)
        layer = model.base_model.model[0]
        with torch.no_grad():
            want: Any = sum(weight * layer.get_delta_weight(name) for weight, name in zip(weights, names))
            model.add_weighted_adapter(names, list(weights), "sum", **how)
            return float((layer.get_delta_weight("sum") - want).norm() / want.norm())


def _number_weights(model: Any) -> None:
    """Let every weight be the number of its adapter: 1 for `one`, 2 for `two`, 0 for the base model's."""
    for name, parameter in model.named_parameters():
        parameter.data.fill_(1.0 if ".one." in name else 2.0 if ".two." in name else 0.0)


def saved_weight_in_use(model: Any, module: str) -> float:
    """Return which adapter's weights `module` of `two_saved_modules` uses: 1, 2, or 0 for the base's."""
    return weight_in_use(model.base_model.model.get_submodule(module))


def weight_in_use(wrapper: Any) -> float:
    """Return the number of the weights that a layer of two features uses."""
    import torch

    with torch.no_grad():
        return float(wrapper(torch.zeros(1, 2))[0, 0].item())


def _saving(module: str) -> Any:
    from peft import LoraConfig

    return LoraConfig(target_modules=["linear"], modules_to_save=[module], r=1, init_lora_weights=False)
