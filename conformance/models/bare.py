"""A model without PEFT: what PEFT put into it or around it is taken off, whoever put it there."""

from __future__ import annotations

from typing import Any, List, Optional

from conformance.selection import CannotLoad

# Where the modules of PEFT hold what they stand for: saved modules and tokens; layers; the model that is fed prompts;
# tuners and adaption prompts; X-LoRA's tuner.
_INSIDE = ("original_module", "base_layer", "base_model", "model", "lora_model")


def without_adapters(model: Any) -> Any:
    """Return the model with what was there in the place of every module of PEFT, the model itself among them.

    So `get_peft_model`, `inject_adapter_in_model`, `add_adapter` of transformers and prompts are undone, in parts of
    the model too. Saved modules are the base model's again; weights into which an adapter was merged stay merged.

    Raises:
        CannotLoad: a module of PEFT stands for nothing that could take its place.
    """
    bare = _inmost(model)
    waiting: List[Any] = [bare]
    seen = set()
    while waiting:
        module = waiting.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        _forget(module)
        for name, child in module._modules.items():
            if child is not None:
                module._modules[name] = _inmost(child)
                waiting.append(module._modules[name])
    left = sorted({type(module).__name__ for module in bare.modules() if _is_of_peft(module)})
    if left:
        raise CannotLoad(
            f"the model has {', '.join(left)} of PEFT, which cannot be taken off, but should be without adapters: the "
            "checks put on their own. Let the function return the model as it was before PEFT"
        )
    return bare


def _inmost(module: Any) -> Any:
    """Return what a module of PEFT stands for, through as many as there are; any other module itself."""
    while _is_of_peft(module):
        inside = _inside(module)
        if inside is None:
            break
        module = inside
    return module


def _inside(module: Any) -> Optional[Any]:
    if "base_layer" in module._modules and hasattr(type(module), "unload_and_optionally_merge_module"):
        # Breakpoint: huggingface/peft#1324: attention of torch, whose weights LoRA keeps as no parameters.
        return module.unload_and_optionally_merge_module(merge=False, safe_merge=False, adapter_names=None)
    return next((module._modules[name] for name in _INSIDE if name in module._modules), None)


def _forget(module: Any) -> None:
    """Drop what says that a module has adapters: PEFT's own mark, which `unload` left up to 0.14, and transformers'."""
    import peft

    vars(module).pop("_hf_peft_config_loaded", None)
    configs = vars(module).get("peft_config")
    if isinstance(configs, dict) and all(isinstance(config, peft.PeftConfig) for config in configs.values()):
        del module.peft_config


def _is_of_peft(module: Any) -> bool:
    return any(cls.__module__.partition(".")[0] == "peft" for cls in type(module).__mro__)
