"""Hooks with keyword arguments under torch.jit and torch.fx."""

from __future__ import annotations

from typing import Any, List

import pytest
import torch
import torch.fx._symbolic_trace
from torch import nn

from tests.shim.patches.forward_hooks_with_kwargs.hooked import (
    FORWARD,
    FORWARD_PRE,
    Outer,
    Scale,
    add_factor,
    times_ten,
)


def test_trace_records_what_the_hooks_do(x: torch.Tensor) -> None:
    outer = Outer()
    outer.inner.register_forward_pre_hook(times_ten, with_kwargs=True)
    outer.inner.register_forward_hook(add_factor, with_kwargs=True)
    traced = torch.jit.trace(outer, (x,))
    assert traced(x * 2).tolist() == [2 * 60.0 + 31, 10 * 60.0 + 31]
    scopes = [node.scopeName() for node in traced.inlined_graph.nodes() if node.kind() == "aten::mul"]
    assert scopes
    assert all("inner" in scope for scope in scopes), "the tracer lost the module's scope"


def test_trace_makes_no_attributes_of_the_dictionaries(module: Scale, x: torch.Tensor) -> None:
    module.register_forward_pre_hook(times_ten, with_kwargs=True)
    module.register_forward_hook(add_factor, with_kwargs=True)
    traced = torch.jit.trace(module, (x,))
    assert traced._c.hasattr("weight")
    assert [name for name in (FORWARD, FORWARD_PRE) if traced._c.hasattr(name)] == []


def test_script_of_a_module_without_kwargs_hooks(x: torch.Tensor) -> None:
    outer = Outer()
    outer.inner.register_forward_pre_hook(times_ten, with_kwargs=True).remove()
    scripted = torch.jit.script(outer)
    assert scripted(x).tolist() == outer(x).tolist() == [7.0, 31.0]


def test_remote_module_ignores_the_dictionaries() -> None:
    remote = pytest.importorskip("torch.distributed.nn.api.remote_module")
    assert {FORWARD, FORWARD_PRE} <= set(remote._REMOTE_MODULE_ATTRIBUTES_IGNORE_FOR_PICKLING)


def test_fx_traces_through_the_hooks(x: torch.Tensor) -> None:
    outer = Outer()
    outer.inner.register_forward_pre_hook(times_ten, with_kwargs=True)
    graph = torch.fx.symbolic_trace(outer)
    assert graph(x).tolist() == outer(x).tolist() == [61.0, 301.0]


def test_fx_graph_takes_hooks_of_its_own(x: torch.Tensor) -> None:
    class Doubling(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2

    graph = torch.fx.symbolic_trace(Doubling())
    seen: List[Any] = []

    def look(module: nn.Module, args: Any, kwargs: Any) -> Any:
        seen.append(dict(kwargs))
        return (kwargs["x"] + 1,), {}

    graph.register_forward_pre_hook(look, with_kwargs=True)
    assert graph(x=x).tolist() == [4.0, 12.0]
    assert [list(kwargs) for kwargs in seen] == [["x"]]
