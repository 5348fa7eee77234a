"""Everything about a model that a call must leave as it was: taken before and after, and compared."""

from __future__ import annotations

import collections
import random
import sys
from typing import Any, Callable, Collection, Dict, FrozenSet, List

from conformance.compare import Mismatch

Moving = FrozenSet[str]
"""What of a footprint a plain call changes by itself: a counter, a state that the model keeps."""

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_VALUES = (bool, int, float, complex, str, bytes, type(None))
_DEEPEST = 4


def footprint(model: Any) -> Dict[str, Any]:
    """Return the state of `model` and of all random generators by name: weights bit for bit."""
    import torch

    state: Dict[str, Any] = _generators()
    torchs_own = vars(torch.nn.Module())  # looked at by what they mean
    for path, module in model.named_modules():
        place = path or "the model"
        for hooks in _HOOKS:
            state[f"{place}: {hooks}"] = len(vars(module).get(hooks) or ())
        state[f"{place}: training"] = module.training
        state[f"{place}: attributes"] = sorted(vars(module))
        for attribute, value in vars(module).items():
            if attribute not in torchs_own:
                state[f"{place}: {attribute}"] = _held(value)
        state[f"{place}: class"] = type(module).__qualname__
        for attribute in ("active_adapter", "disable_adapters", "merged_adapters"):
            if hasattr(type(module), attribute) or attribute in vars(module):
                state[f"{place}: {attribute}"] = _plain(getattr(module, attribute))
    for path, tensor in [*model.named_parameters(), *model.named_buffers()]:
        state[f"{path}: value"] = tensor.detach().clone()
        state[f"{path}: requires_grad"] = tensor.requires_grad
        state[f"{path}: grad"] = None if tensor.grad is None else tensor.grad.clone()
    return state


def moved_by(model: Any, call: Callable[[], Any]) -> Moving:
    """Return what `call`, a plain one, changes of `model` by itself: that is no trace of any other."""
    before = footprint(model)
    call()
    return frozenset(_changed(before, footprint(model)))


def expect_unchanged(
    before: Dict[str, Any], after: Dict[str, Any], what: str, moving: Collection[str] = frozenset()
) -> None:
    """Compare two footprints, but for what is `moving`.

    Raises:
        Mismatch: the message names what changed, at most five things.
    """
    changed = differences(before, after, moving)
    if changed:
        shown = "; ".join(changed[:5]) + (f"; and {len(changed) - 5} more" if len(changed) > 5 else "")
        raise Mismatch(f"{what} left a trace, but should leave none: {shown}")


def expect_moved_once(once: Dict[str, Any], twice: Dict[str, Any], after: Dict[str, Any], what: str) -> None:
    """Check that what a plain call moves on has not been moved on by two steps; `once` and `twice` are by plain calls.

    Raises:
        Mismatch: it has.
    """
    for key in _changed(once, twice):
        if not _same(after.get(key), once.get(key)) and _same(after.get(key), twice.get(key)):
            raise Mismatch(f"{what} moved {key} on to {_shown(after.get(key))}, but should once, not twice")


def differences(before: Dict[str, Any], after: Dict[str, Any], moving: Collection[str] = frozenset()) -> List[str]:
    """Return one line for each thing that differs between two footprints and is not `moving`."""
    return [
        f"{key} was {_shown(before.get(key, 'absent'))}, is {_shown(after.get(key, 'absent'))}"
        for key in _changed(before, after)
        if key not in moving
    ]


def _changed(before: Dict[str, Any], after: Dict[str, Any]) -> List[str]:
    keys = sorted({*before, *after})
    return [key for key in keys if not _same(before.get(key, "absent"), after.get(key, "absent"))]


def _generators() -> Dict[str, Any]:
    import torch

    state: Dict[str, Any] = {
        "torch's random generator": torch.get_rng_state().clone(),
        "Python's random generator": random.getstate(),
    }
    if "numpy" in sys.modules:
        import numpy

        state["numpy's random generator"] = [_held(part) for part in numpy.random.get_state()]
    if torch.cuda.is_available():
        for index, generator in enumerate(torch.cuda.get_rng_state_all()):
            state[f"cuda:{index}'s random generator"] = generator.clone()
    return state


def _held(value: Any, depth: int = 0) -> Any:
    """Return a copy of what an attribute holds, as far as it is values; of anything else its type."""
    if isinstance(value, _VALUES):
        return value
    if hasattr(value, "detach"):
        return value.detach().clone()
    if type(value).__module__ == "numpy" and hasattr(value, "tobytes"):
        return (str(value.dtype), value.shape, value.tobytes())
    if depth < _DEEPEST and isinstance(value, (list, tuple, collections.deque)):
        return [type(value).__name__, *(_held(one, depth + 1) for one in value)]
    if depth < _DEEPEST and isinstance(value, dict):
        return [type(value).__name__, *((str(key), _held(one, depth + 1)) for key, one in value.items())]
    return type(value).__qualname__


def _same(old: Any, new: Any) -> bool:
    import torch

    if isinstance(old, torch.Tensor) and isinstance(new, torch.Tensor):
        return old.dtype == new.dtype and torch.equal(_bits(old), _bits(new))
    if isinstance(old, (list, tuple)) and isinstance(new, (list, tuple)):
        return len(old) == len(new) and all(_same(a, b) for a, b in zip(old, new))
    return type(old) is type(new) and (bool(old == new) or (old != old and new != new))


def _bits(tensor: Any) -> Any:
    import torch

    flat = tensor.detach().contiguous().cpu().flatten()
    return flat.view(torch.uint8) if flat.is_floating_point() else flat


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value


def _shown(value: Any) -> str:
    if not hasattr(value, "shape"):
        return repr(value)[:80]
    return repr(value.tolist()) if value.numel() <= 4 else f"a tensor of shape {tuple(value.shape)}"
