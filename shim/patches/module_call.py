"""The functions of torch 2.0.1 that pass keyword arguments to hooks, written for torch 1.13.

Imported only when the patch is applied, so that torch may be imported here, on top: an import inside the
function that every module of every model is called through would cost each of those calls.

The source is pytorch/pytorch#89389, less what other pull requests brought to 2.0 (backward pre-hooks and the
warning about outputs that are not tensors). The two `_with_kwargs` dictionaries are created by the first hook
that asks for keyword arguments, and read from `__dict__`: modules made or unpickled before the patch lack
them, and modules without such hooks stay byte for byte what torch 1.13 makes them.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from typing import Any, Callable, Dict, List, Tuple

import torch
import torch.nn.modules.module
import torch.utils.hooks

FORWARD = "_forward_hooks_with_kwargs"
FORWARD_PRE = "_forward_pre_hooks_with_kwargs"

# Read through the module at each call, since upstream's globals may be bound anew. Typed Any: the type
# checker sees the newest torch, this code runs on the oldest.
_upstream: Any = torch.nn.modules.module
_utils_hooks: Any = torch.utils.hooks
_get_tracing_state: Callable[[], Any] = torch._C._get_tracing_state
_NO_HOOKS: Dict[int, bool] = {}


def call_impl(self: Any, *args: Any, **kwargs: Any) -> Any:
    """Call `forward` between the hooks: the global ones first, then the module's own, in their order."""
    # `_slow_forward` records the scopes of torch.jit.trace; chosen before any hook runs, as upstream does.
    forward_call = self._slow_forward if _get_tracing_state() else self.forward
    if not (
        self._backward_hooks
        or self._forward_hooks
        or self._forward_pre_hooks
        or _upstream._global_backward_hooks
        or _upstream._global_forward_hooks
        or _upstream._global_forward_pre_hooks
    ):
        return forward_call(*args, **kwargs)

    full_backward: List[Any] = []
    non_full_backward: List[Any] = []
    if self._backward_hooks or _upstream._global_backward_hooks:
        full_backward, non_full_backward = self._get_backward_hooks()

    args, kwargs = _after_pre_hooks(self, args, kwargs)
    backward_hook = None
    if full_backward:
        # After the pre-hooks: the backward hook reports the gradients of the inputs that they leave.
        backward_hook = _utils_hooks.BackwardHook(self, full_backward)
        args = backward_hook.setup_input_hook(args)
    result = _after_forward_hooks(self, args, kwargs, forward_call(*args, **kwargs))
    if backward_hook:
        result = backward_hook.setup_output_hook(result)
    if non_full_backward:
        _set_non_full_backward_hooks(self, non_full_backward, args, result)
    return result


def _after_pre_hooks(
    module: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any]
) -> Tuple[Tuple[Any, ...], Dict[str, Any]]:
    """Return what the pre-hooks make of the arguments.

    Raises:
        RuntimeError: a hook that sees keyword arguments returned something else than None or a pair.
    """
    for hook_id, hook in (*_upstream._global_forward_pre_hooks.items(), *module._forward_pre_hooks.items()):
        if hook_id in module.__dict__.get(FORWARD_PRE, _NO_HOOKS):
            result = hook(module, args, kwargs)
            if result is None:
                continue
            if not (isinstance(result, tuple) and len(result) == 2):
                raise RuntimeError(
                    f"forward pre-hook must return None or a tuple of (new_args, new_kwargs), but got {result}."
                )
            args, kwargs = result
        else:
            result = hook(module, args)
            if result is not None:
                args = result if isinstance(result, tuple) else (result,)
    return args, kwargs


def _after_forward_hooks(module: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any], result: Any) -> Any:
    """Return what the forward hooks make of the output; None leaves it."""
    for hook_id, hook in (*_upstream._global_forward_hooks.items(), *module._forward_hooks.items()):
        if hook_id in module.__dict__.get(FORWARD, _NO_HOOKS):
            hook_result = hook(module, args, kwargs, result)
        else:
            hook_result = hook(module, args, result)
        if hook_result is not None:
            result = hook_result
    return result


def _set_non_full_backward_hooks(module: Any, backward_hooks: List[Any], args: Tuple[Any, ...], result: Any) -> None:
    """Attach the old kind of backward hooks to the first tensor of the output, as torch 1.13 does."""
    var = result
    while not isinstance(var, torch.Tensor):
        var = next(v for v in var.values() if isinstance(v, torch.Tensor)) if isinstance(var, dict) else var[0]
    grad_fn = var.grad_fn
    if grad_fn is not None:
        for hook in backward_hooks:
            grad_fn.register_hook(_upstream._WrappedHook(hook, module))
        module._maybe_warn_non_full_backward_hook(args, result, grad_fn)


def register_forward_pre_hook(
    self: Any, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
) -> Any:
    """Register a hook that runs before each `forward`, and return the handle that removes it.

    The hook is `hook(module, args) -> None or modified args`; with `with_kwargs` it is
    `hook(module, args, kwargs) -> None or (modified args, modified kwargs)`. With `prepend` it runs before
    the module's other pre-hooks; global pre-hooks run before them all.
    """
    return _register(self, self._forward_pre_hooks, FORWARD_PRE, hook, prepend, with_kwargs)


def register_forward_hook(
    self: Any, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
) -> Any:
    """Register a hook that runs after each `forward`, and return the handle that removes it.

    The hook is `hook(module, args, output) -> None or modified output`; with `with_kwargs` it is
    `hook(module, args, kwargs, output) -> None or modified output`. With `prepend` it runs before the
    module's other forward hooks; global forward hooks run before them all.
    """
    return _register(self, self._forward_hooks, FORWARD, hook, prepend, with_kwargs)


def _register(
    module: Any, hooks: Any, with_kwargs_name: str, hook: Callable[..., Any], prepend: bool, with_kwargs: bool
) -> Any:
    extra = module.__dict__.setdefault(with_kwargs_name, OrderedDict()) if with_kwargs else None
    handle = _utils_hooks.RemovableHandle(hooks, extra_dict=extra)
    hooks[handle.id] = hook
    if extra is not None:
        extra[handle.id] = True
    if prepend:
        hooks.move_to_end(handle.id, last=False)
    return handle


def handle_init(self: Any, hooks_dict: Any, *, extra_dict: Any = None) -> None:
    """Hold both dictionaries weakly (so they are OrderedDicts: a plain dict has no weak references)."""
    self.hooks_dict_ref = weakref.ref(hooks_dict)
    self.id = _utils_hooks.RemovableHandle.next_id
    _utils_hooks.RemovableHandle.next_id += 1
    self.extra_dict_ref = weakref.ref(extra_dict) if extra_dict is not None else None


def handle_remove(self: Any) -> None:
    """Remove the hook from the dictionaries that still live; a second call does nothing."""
    # A handle made before the patch has no `extra_dict_ref`.
    for reference in (self.hooks_dict_ref, getattr(self, "extra_dict_ref", None)):
        hooks_dict = reference() if reference is not None else None
        if hooks_dict is not None and self.id in hooks_dict:
            del hooks_dict[self.id]


def handle_getstate(self: Any) -> Tuple[Any, ...]:
    """Return (hooks, id), or (hooks, id, extra) where there is an extra dictionary."""
    extra_dict_ref = getattr(self, "extra_dict_ref", None)
    if extra_dict_ref is None:
        return self.hooks_dict_ref(), self.id
    return self.hooks_dict_ref(), self.id, extra_dict_ref()


def handle_setstate(self: Any, state: Tuple[Any, ...]) -> None:
    """Take a state of two parts (any torch) or of three; a dictionary that is gone stays a dead reference."""
    self.hooks_dict_ref = weakref.ref(OrderedDict() if state[0] is None else state[0])
    self.id = state[1]
    handle_class = _utils_hooks.RemovableHandle
    handle_class.next_id = max(handle_class.next_id, self.id + 1)
    if len(state) < 3:
        self.extra_dict_ref = None
    else:
        self.extra_dict_ref = weakref.ref(OrderedDict() if state[2] is None else state[2])
