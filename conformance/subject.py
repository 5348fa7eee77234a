"""A tiny model with a scenario's adapters on it: all of them together, or one of them alone."""

from __future__ import annotations

import copy
import functools
import warnings
import zlib
from typing import TYPE_CHECKING, Any, Dict, Optional, Sequence

from conformance.models.precision import cast
from conformance.scenarios import BASE, NAMES, Adapter, Scenario
from conformance.selection import UnknownChoiceError

if TYPE_CHECKING:
    from conformance.models import Model


_WRAPPED = "base_model.model."
"""What PEFT puts before the path of a weight of the model that it wraps."""


def device_named(name: str) -> str:
    """Return the torch device for a setting: `auto` is CUDA where there is one.

    Raises:
        UnknownChoiceError: there is no such device here, or it cannot compute in float64.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda":  # counted only: a process that uses it holds memory there
            usable = (device.index or 0) < torch.cuda.device_count()
            said = f"torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices"
        else:
            usable, said = torch.ones(1, dtype=torch.float64, device=device).tolist() == [1.0], "it computes nothing"
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        usable, said = False, str(error).split("\n")[0].split(". ")[0]
    if not usable:
        raise UnknownChoiceError(
            f"device {name!r} cannot be used here, but should compute in float64 [{said}]. Name another, such as cpu"
        )
    return name


@functools.lru_cache(maxsize=4)
def pristine(model: Model, device: str) -> Any:
    """Return the base model in float64, evaluation mode; shared, so copy it before anything is done to it."""
    import torch

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        return model.build().double().eval().to(device).requires_grad_(False)


def base_model(model: Model, device: str) -> Any:
    """Return a base model of one's own."""
    return copy.deepcopy(pristine(model, device))


def with_adapters(model: Model, adapters: Sequence[Adapter], seed: int, device: str, active: str = "") -> Any:
    """Return a PEFT model with `adapters`, loaded in their order, with weights that the seed decides.

    An adapter's weights depend on its name and the seed alone, not on which others are loaded.
    """
    import peft

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first, *rest = adapters
        wrapped = peft.get_peft_model(base_model(model, device), lora_config(model, first), adapter_name=first.name)
        for adapter in rest:
            wrapped.add_adapter(adapter.name, lora_config(model, adapter))
        wrapped = wrapped.double().eval()
        for adapter in adapters:
            fill(wrapped, adapter, seed, integer="integer" in model.tags)
        if active and active != first.name:
            wrapped.set_adapter(active)
    return wrapped


def with_own_adapters(model: Model, adapters: Sequence[Adapter], seed: int, device: str, active: str) -> Any:
    """Return the model itself, with `adapters` added by transformers' `add_adapter`: those of `with_adapters`."""
    own = base_model(model, device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for adapter in adapters:
            own.add_adapter(lora_config(model, adapter), adapter_name=adapter.name)
        own = own.double().eval()
        for adapter in adapters:
            fill(own, adapter, seed, integer="integer" in model.tags)
        own.set_adapter(active)
    return own


def lora_config(model: Model, adapter: Adapter) -> Any:
    """Return PEFT's configuration of `adapter`."""
    import peft

    # Breakpoint: huggingface/peft#2376, peft 0.15.0: LoRA trains tokens beside its layers.
    tokens = {"trainable_token_indices": list(adapter.tokens)} if adapter.tokens else {}
    return peft.LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        target_modules=list(adapter.targets),
        modules_to_save=list(adapter.saved) or None,
        use_rslora=adapter.rslora,
        task_type=task_type(model),
        **tokens,
    )


def task_type(model: Model) -> Optional[str]:
    """Return the task that makes PEFT use the model class that its users get, where one applies."""
    if "generates" not in model.tags:
        return None
    return "CAUSAL_LM" if "causal-lm" in model.tags else "SEQ_2_SEQ_LM" if model.name == "t5" else None


def fill(wrapped: Any, adapter: Adapter, seed: int, integer: bool) -> None:
    """Give every weight of `adapter` a value that the seed, its name and its path in a PEFT model decide."""
    import torch

    for path, parameter in wrapped.named_parameters():
        if not owns(adapter, path):
            continue
        path = path if path.startswith(_WRAPPED) else _WRAPPED + path
        path = path.replace(".original_module.", ".")  # of a layer inside of what another adapter saves
        if "modules_to_save" in path:
            path = path.replace(".base_layer.", ".")  # which other adapters may adapt in there
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{path}".encode()))
        if integer:
            values = torch.randint(-1, 2, parameter.shape, generator=generator).double()
        else:
            values = 0.4 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        if "modules_to_save" in path:
            values = values + parameter.detach().cpu()  # near the base's: a norm stays a norm
        parameter.data = values.to(parameter)


def owns(adapter: Adapter, path: str) -> bool:
    """Tell whether the parameter at `path` is a weight that `adapter` trains."""
    parts = path.split(".")
    if adapter.name not in parts:
        return False
    if "modules_to_save" not in parts:
        return True
    module = ".".join(parts[: parts.index("modules_to_save")])
    return any(module.endswith(saved) for saved in adapter.saved)


def inputs_of(model: Model, scenario: Scenario, device: str) -> Dict[str, Any]:
    """Return the inputs of the scenario's batch: one sample a row, floats in float64."""
    import torch

    generator = torch.Generator().manual_seed(scenario.seed)
    inputs = model.inputs(len(scenario.rows), scenario.length, generator)
    return {name: value.to(device) for name, value in cast(inputs, torch.float64).items()}


def routes(model: Model, device: str) -> str:
    """Return in words which way the shim runs a mixed batch of `model` with every target adapted, layer by layer."""
    from conformance.shim_switch import explanation

    adapters = tuple(Adapter(name, targets=model.targets) for name in NAMES[:2])
    scenario = Scenario(adapters, (NAMES[0], NAMES[1], BASE), model.lengths[0], NAMES[0])
    place = device_named(device)
    wrapped = with_adapters(model, adapters, 0, place)
    return explanation(wrapped, inputs_of(model, scenario, place), scenario.rows)
