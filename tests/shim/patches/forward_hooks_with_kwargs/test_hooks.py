"""Forward hooks with keyword arguments: the same on torch 2, which has them, and on torch 1.13, patched."""

from __future__ import annotations

import warnings
from typing import Any, List

import pytest
import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
    register_module_full_backward_hook,
)

from tests.shim.patches.forward_hooks_with_kwargs.hooked import Scale, add_factor, recorder, times_ten


def test_pre_hook_sees_args_and_kwargs(module: Scale, x: torch.Tensor) -> None:
    seen: List[Any] = []

    def look(*call: Any) -> None:
        seen.append(call)

    module.register_forward_pre_hook(look, with_kwargs=True)
    assert module(x, factor=3.0).tolist() == [6.0, 30.0]
    ((seen_module, args, kwargs),) = seen
    assert seen_module is module
    assert len(args) == 1
    assert args[0] is x
    assert kwargs == {"factor": 3.0}


def test_pre_hook_changes_args_and_kwargs(module: Scale, x: torch.Tensor) -> None:
    module.register_forward_pre_hook(
        lambda module, args, kwargs: ((args[0] + 1,), {"factor": kwargs["factor"] * 10}), with_kwargs=True
    )
    assert module(x, factor=3.0).tolist() == [120.0, 360.0]


def test_pre_hook_takes_a_kwarg_away(module: Scale, x: torch.Tensor) -> None:
    module.register_forward_pre_hook(lambda module, args, kwargs: (args, {}), with_kwargs=True)
    assert module(x, factor=3.0).tolist() == [2.0, 10.0]


def test_pre_hook_gets_empty_kwargs_without_any(module: Scale, x: torch.Tensor) -> None:
    log: List[Any] = []
    module.register_forward_pre_hook(recorder(log, "pre", with_kwargs=True), with_kwargs=True)
    module(x)
    assert log == [("pre", {})]


@pytest.mark.parametrize(
    "wrong",
    [torch.zeros(2), {"factor": 2.0}, (1,), (1, {}, 2), [(1,), {}], 0, ()],
    ids=["tensor", "dict", "one", "three", "list", "zero", "empty"],
)
def test_pre_hook_with_a_wrong_return_is_an_error(module: Scale, x: torch.Tensor, wrong: Any) -> None:
    handle = module.register_forward_pre_hook(lambda module, args, kwargs: wrong, with_kwargs=True)
    with pytest.raises(RuntimeError, match=r"must return None or a tuple of \(new_args, new_kwargs\), but got"):
        module(x)
    handle.remove()
    assert module(x).tolist() == [2.0, 10.0]


def test_plain_pre_hook_is_as_before(module: Scale, x: torch.Tensor) -> None:
    log: List[Any] = []
    module.register_forward_pre_hook(recorder(log, "plain", with_kwargs=False))
    module.register_forward_pre_hook(lambda module, args: args[0] + 1)
    module.register_forward_pre_hook(lambda module, args: (args[0] * 10,))
    assert module(x, factor=3.0).tolist() == [120.0, 360.0]
    assert log == ["plain"]


def test_plain_and_kwargs_pre_hooks_see_each_others_changes(module: Scale, x: torch.Tensor) -> None:
    module.register_forward_pre_hook(times_ten, with_kwargs=True)
    module.register_forward_pre_hook(lambda module, args: args[0] + 1)
    module.register_forward_pre_hook(
        lambda module, args, kwargs: ((args[0] * kwargs["factor"],), kwargs), with_kwargs=True
    )
    assert module(x).tolist() == [2 * 20.0 * 10, 6 * 20.0 * 10]


def test_forward_hook_sees_what_forward_got_and_gave(module: Scale, x: torch.Tensor) -> None:
    seen: List[Any] = []

    def look(*call: Any) -> None:
        seen.append(call)

    module.register_forward_pre_hook(times_ten, with_kwargs=True)
    module.register_forward_hook(look, with_kwargs=True)
    output = module(x, factor=3.0)
    ((seen_module, args, kwargs, seen_output),) = seen
    assert seen_module is module
    assert args[0] is x
    assert kwargs == {"factor": 30.0}
    assert seen_output is output
    assert output.tolist() == [60.0, 300.0]


def test_forward_hook_replaces_the_output(module: Scale, x: torch.Tensor) -> None:
    module.register_forward_hook(add_factor, with_kwargs=True)
    module.register_forward_hook(lambda module, args, output: output * 2)
    module.register_forward_hook(add_factor, with_kwargs=True)
    assert module(x, factor=3.0).tolist() == [(6 + 3) * 2 + 3, (30 + 3) * 2 + 3]


@pytest.mark.parametrize("kind", ["pre", "post"])
def test_order_is_global_then_prepended_then_registered(module: Scale, x: torch.Tensor, kind: str) -> None:
    register = module.register_forward_pre_hook if kind == "pre" else module.register_forward_hook
    register_global = register_module_forward_pre_hook if kind == "pre" else register_module_forward_hook
    log: List[Any] = []

    def hook(label: str, with_kwargs: bool) -> Any:
        return recorder(log, label, with_kwargs=with_kwargs)

    register(hook("first", False))
    register(hook("second", True), with_kwargs=True)
    register(hook("front", False), prepend=True)
    register(hook("foremost", True), prepend=True, with_kwargs=True)
    register(hook("last", False))
    with register_global(hook("global", False)):
        module(x, factor=3.0)
    seen = {"factor": 3.0}
    assert log == ["global", ("foremost", seen), "front", "first", ("second", seen), "last"]


@pytest.mark.parametrize(
    ("register_global", "hook", "expected"),
    [
        (register_module_forward_pre_hook, lambda module, args: args[0] + 1, 12.0),
        (register_module_forward_hook, lambda module, args, output: output + 1, 7.0),
        (
            register_module_full_backward_hook,
            lambda module, grad_input, grad_output: (grad_input[0] * 0 + 12,),
            6.0,
        ),
    ],
    ids=["pre", "post", "backward"],
)
def test_global_hooks_need_no_hook_on_the_module(
    module: Scale, register_global: Any, hook: Any, expected: float
) -> None:
    x = torch.ones(1, requires_grad=True)
    with register_global(hook):
        output = module(x, factor=3.0)
    output.backward()
    assert output.item() == expected
    assert x.grad is not None
    assert x.grad.item() == (12.0 if register_global is register_module_full_backward_hook else 6.0)
    assert module(x, factor=3.0).item() == 6.0


@pytest.mark.parametrize("name", ["register_forward_pre_hook", "register_forward_hook"])
def test_options_are_keywords_only(module: Scale, name: str) -> None:
    with pytest.raises(TypeError):
        getattr(module, name)(times_ten, True)
    assert not module._forward_pre_hooks
    assert not module._forward_hooks


@pytest.mark.parametrize("kind", ["pre", "post"])
def test_exception_in_a_hook_comes_out_as_it_is(module: Scale, x: torch.Tensor, kind: str) -> None:
    register = module.register_forward_pre_hook if kind == "pre" else module.register_forward_hook
    error = KeyError("from the hook")
    log: List[Any] = []

    def raising(*call: Any) -> None:
        raise error

    register(recorder(log, "before", with_kwargs=True), with_kwargs=True)
    handle = register(raising, with_kwargs=True)
    register(recorder(log, "after", with_kwargs=True), with_kwargs=True)
    with pytest.raises(KeyError) as caught:
        module(x)
    assert caught.value is error
    assert log == [("before", {})]
    handle.remove()
    assert module(x).tolist() == [2.0, 10.0]


def test_full_backward_hook_sees_the_inputs_that_pre_hooks_leave(module: Scale) -> None:
    seen: List[Any] = []

    def look(module: nn.Module, grad_input: Any, grad_output: Any) -> None:
        seen.append((grad_input[0].tolist(), grad_output[0].tolist()))

    module.register_full_backward_hook(look)
    module.register_forward_pre_hook(lambda module, args, kwargs: ((args[0] * 3,), {"factor": 7.0}), with_kwargs=True)
    module.register_forward_hook(lambda module, args, kwargs, output: output * 5, with_kwargs=True)
    x = torch.tensor([1.0, 5.0], requires_grad=True)
    module(x).sum().backward()
    # The set-up comes after the pre-hook (else grad_input is 3 times this) and after the forward hook.
    assert seen == [([2 * 7 * 5.0] * 2, [1.0] * 2)]
    assert x.grad is not None
    assert x.grad.tolist() == [3 * 2 * 7 * 5.0] * 2
    assert module.weight.grad is not None
    assert module.weight.grad.item() == 6 * 3 * 7 * 5.0


@pytest.mark.parametrize("factor", [1.0, 10.0], ids=["alone", "with a kwargs hook"])
def test_full_backward_hook_changes_the_gradient(module: Scale, factor: float) -> None:
    module.register_full_backward_hook(lambda module, grad_input, grad_output: (grad_input[0] * 100,))
    if factor != 1.0:
        module.register_forward_pre_hook(times_ten, with_kwargs=True)
    x = torch.ones(2, requires_grad=True)
    module(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [200.0 * factor, 200.0 * factor]


@pytest.mark.parametrize("wrap", [lambda out: out, lambda out: (out, 1), lambda out: {"n": 1, "out": out}])
def test_old_backward_hook_is_as_before(module: Scale, x: torch.Tensor, wrap: Any) -> None:
    seen: List[Any] = []

    def look(module: nn.Module, grad_input: Any, grad_output: Any) -> None:
        seen.append(grad_output[0].tolist())

    module.register_backward_hook(look)
    module.register_forward_pre_hook(times_ten, with_kwargs=True)
    module.register_forward_hook(lambda module, args, kwargs, output: wrap(output), with_kwargs=True)
    with warnings.catch_warnings():
        # Upstream advises against the old kind of hook in a warning whose class changes between versions.
        warnings.simplefilter("ignore")
        result = module(x)
    tensor = result if isinstance(result, torch.Tensor) else result["out" if isinstance(result, dict) else 0]
    tensor.sum().backward()
    assert seen == [[1.0, 1.0]]
