"""Forward hooks that see keyword arguments, on torch below 2.0.

peft registers its mixed-batch hooks with `register_forward_pre_hook(..., with_kwargs=True)`, which torch 1.13
answers with a TypeError. The functions that take upstream's place are in `module_call`.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any, Callable, List, Sequence

from shim.patch import Patch, Replacement


def _is_broken() -> bool:
    """Tell whether `register_forward_pre_hook` lacks the keyword."""
    import torch

    return "with_kwargs" not in inspect.signature(torch.nn.Module.register_forward_pre_hook).parameters


def _replacements() -> Sequence[Replacement]:
    """Return every attribute to replace; none where torch is whole, or the patch already in place."""
    # Breakpoint: pytorch/pytorch#89389, torch 2.0.0
    if not _is_broken():
        return ()
    from shim.patches import module_call

    return (
        *_call_replacements(module_call.call_impl),
        *_method_replacements(module_call),
        *_name_replacements([module_call.FORWARD, module_call.FORWARD_PRE]),
    )


def _call_replacements(call_impl: Callable[..., Any]) -> Sequence[Replacement]:
    """Return the three places where torch keeps the one function that calls a module."""
    import torch
    import torch.fx._symbolic_trace

    module_class = torch.nn.Module
    return (
        Replacement.by(module_class, "_call_impl", call_impl),
        # `__call__` is bound to `_call_impl` when the class is made, and so does not follow it.
        Replacement(module_class, "__call__", call_impl),
        # torch.fx took `Module.__call__` when it was imported, and calls what it took while it traces.
        Replacement(torch.fx._symbolic_trace, "_orig_module_call", call_impl),
    )


def _method_replacements(module_call: Any) -> Sequence[Replacement]:
    """Return the methods of Module and of RemovableHandle, each with the name of the one it displaces."""
    import torch
    from torch.utils.hooks import RemovableHandle

    # Methods and not the class: the rest of torch holds the class itself, and old handles are its instances.
    methods = (
        (torch.nn.Module, "register_forward_pre_hook", module_call.register_forward_pre_hook),
        (torch.nn.Module, "register_forward_hook", module_call.register_forward_hook),
        (RemovableHandle, "__init__", module_call.handle_init),
        (RemovableHandle, "remove", module_call.handle_remove),
        (RemovableHandle, "__getstate__", module_call.handle_getstate),
        (RemovableHandle, "__setstate__", module_call.handle_setstate),
    )
    return tuple(Replacement.by(owner, name, function) for owner, name, function in methods)


def _name_replacements(names: List[str]) -> Sequence[Replacement]:
    """Return the lists of attributes to leave alone, with the two dictionaries added; never the same list."""
    import torch.jit._recursive

    # torch.jit would make the dictionaries attributes of the scripted or traced module.
    recursive: Any = torch.jit._recursive
    found = [Replacement(recursive, "ignored_attributes", [*recursive.ignored_attributes, *names])]
    try:
        # It makes a folder and adds it to sys.path when it is imported, as it is by the first PEFT model anyway.
        remote: Any = importlib.import_module("torch.distributed.nn.api.remote_module")
    except Exception:
        return found  # builds without torch.distributed have no RemoteModule, and so nothing to ignore
    # RemoteModule prints a complaint about each attribute that it neither pickles nor ignores.
    attribute = "_REMOTE_MODULE_ATTRIBUTES_IGNORE_FOR_PICKLING"
    return [*found, Replacement(remote, attribute, (*getattr(remote, attribute), *names))]


PATCH = Patch(
    name="forward_hooks_with_kwargs",
    defect="torch.nn.Module's forward hooks lack with_kwargs, so every mixed-adapter call raises TypeError",
    breakpoint="pytorch/pytorch#89389, torch 2.0.0",
    distribution="torch",
    affected="<2.0",
    clauses=("R1",),
    check="each_row_equals_its_own_run",
    is_broken=_is_broken,
    replacements=_replacements,
)
