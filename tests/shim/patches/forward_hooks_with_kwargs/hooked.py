"""Modules and hooks, and what the patch replaces on torch 1.13: as it was before."""

from __future__ import annotations

import contextlib
import importlib
from typing import Any, Dict, List, Tuple

import pytest
import torch
import torch.fx._symbolic_trace
import torch.jit._recursive
from torch import nn
from torch.utils.hooks import RemovableHandle

TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])
NATIVE = TORCH >= (2, 0)
on_old_torch = pytest.mark.skipif(NATIVE, reason="torch 2 has hooks with kwargs: nothing is ever replaced")
FORWARD = "_forward_hooks_with_kwargs"
FORWARD_PRE = "_forward_pre_hooks_with_kwargs"


def targets() -> List[Tuple[Any, str]]:
    targets: List[Tuple[Any, str]] = [
        (nn.Module, "_call_impl"),
        (nn.Module, "__call__"),
        (nn.Module, "register_forward_pre_hook"),
        (nn.Module, "register_forward_hook"),
        (torch.fx._symbolic_trace, "_orig_module_call"),
        (torch.jit._recursive, "ignored_attributes"),
        *((RemovableHandle, name) for name in ("__init__", "remove", "__getstate__", "__setstate__")),
    ]
    with contextlib.suppress(Exception):
        remote = importlib.import_module("torch.distributed.nn.api.remote_module")
        targets.append((remote, "_REMOTE_MODULE_ATTRIBUTES_IGNORE_FOR_PICKLING"))
    return targets


TARGETS = targets()
ORIGINALS = [vars(owner)[name] for owner, name in TARGETS]


def names_of(indices: List[int]) -> List[str]:
    return [TARGETS[i][1] for i in indices]


def untouched() -> List[str]:
    found = [vars(owner)[name] for owner, name in TARGETS]
    return names_of([i for i, raw in enumerate(found) if raw is ORIGINALS[i]])


class Scale(nn.Module):
    """x * 2 * factor; the weight is a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: torch.Tensor, factor: float = 1.0) -> torch.Tensor:
        return x * self.weight * factor


class Outer(nn.Module):
    """Calls its part with a keyword argument."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Scale()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x, factor=3.0) + 1.0


class Counting(Scale):
    """Overrides `__call__`, as some wrappers do."""

    calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return super().__call__(*args, **kwargs)


def times_ten(module: nn.Module, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Any:
    return args, {**kwargs, "factor": kwargs.get("factor", 1.0) * 10.0}


def add_factor(module: nn.Module, args: Tuple[Any, ...], kwargs: Dict[str, Any], output: Any) -> Any:
    return output + kwargs["factor"]


class Old:
    """A module and two plain handles, made before the patch is applied."""

    def __init__(self) -> None:
        self.module = Scale()
        self.seen: List[str] = []
        self.handle = self.module.register_forward_pre_hook(lambda module, args: self.seen.append("plain"))
        self.doomed = self.module.register_forward_hook(lambda module, args, out: self.seen.append("doomed"))


def recorder(log: List[Any], label: str, *, with_kwargs: bool) -> Any:
    """Return a hook that writes its label, and the keyword arguments when it is given them."""

    def plain(module: nn.Module, args: Any, *output: Any) -> None:
        log.append(label)

    def seeing(module: nn.Module, args: Any, kwargs: Any, *output: Any) -> None:
        log.append((label, dict(kwargs)))

    return seeing if with_kwargs else plain
