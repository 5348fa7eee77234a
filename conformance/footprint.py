"""Everything about a model that a call must leave as it was: taken before and after, and compared."""

from __future__ import annotations

from typing import Any, Dict, List

from conformance.compare import Mismatch

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def footprint(model: Any) -> Dict[str, Any]:
    """Return the state of `model` and of torch's generators by name: weights bit for bit."""
    import torch

    state: Dict[str, Any] = {"torch's random generator": torch.get_rng_state().clone()}
    if torch.cuda.is_available():
        for index, generator in enumerate(torch.cuda.get_rng_state_all()):
            state[f"cuda:{index}'s random generator"] = generator.clone()
    for path, module in model.named_modules():
        place = path or "the model"
        for hooks in _HOOKS:
            state[f"{place}: {hooks}"] = len(vars(module).get(hooks) or ())
        state[f"{place}: training"] = module.training
        state[f"{place}: attributes"] = sorted(vars(module))
        state[f"{place}: class"] = type(module).__qualname__
        for attribute in ("active_adapter", "disable_adapters", "merged_adapters"):
            if hasattr(type(module), attribute) or attribute in vars(module):
                state[f"{place}: {attribute}"] = _plain(getattr(module, attribute))
    for path, tensor in [*model.named_parameters(), *model.named_buffers()]:
        state[f"{path}: value"] = tensor.detach().clone()
        state[f"{path}: requires_grad"] = tensor.requires_grad
        state[f"{path}: grad"] = None if tensor.grad is None else tensor.grad.clone()
    return state


def expect_unchanged(before: Dict[str, Any], after: Dict[str, Any], what: str) -> None:
    """Compare two footprints.

    Raises:
        Mismatch: the message names what changed, at most five things.
    """
    changed = differences(before, after)
    if changed:
        shown = "; ".join(changed[:5]) + (f"; and {len(changed) - 5} more" if len(changed) > 5 else "")
        raise Mismatch(f"{what} left a trace, but should leave none: {shown}")


def differences(before: Dict[str, Any], after: Dict[str, Any]) -> List[str]:
    """Return one line for each thing that differs between two footprints."""
    found = []
    for key in sorted({*before, *after}):
        old, new = before.get(key, "absent"), after.get(key, "absent")
        if not _same(old, new):
            found.append(f"{key} was {_shown(old)}, is {_shown(new)}")
    return found


def _same(old: Any, new: Any) -> bool:
    import torch

    if isinstance(old, torch.Tensor) and isinstance(new, torch.Tensor):
        return old.dtype == new.dtype and torch.equal(_bits(old), _bits(new))
    return type(old) is type(new) and bool(old == new)


def _bits(tensor: Any) -> Any:
    import torch

    flat = tensor.detach().contiguous().cpu().flatten()
    return flat.view(torch.uint8) if flat.is_floating_point() else flat


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value


def _shown(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if hasattr(value, "shape") else repr(value)[:80]
