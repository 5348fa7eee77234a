"""Forward hooks with keyword arguments: the same on torch 2, which has them, and on torch 1.13, patched."""

from __future__ import annotations

import contextlib
import copy
import gc
import importlib
import inspect
import pickle
import subprocess
import sys
import warnings
import weakref
from collections import OrderedDict
from typing import Any, Dict, Iterator, List, Tuple

import pytest
import torch
import torch.fx._symbolic_trace
import torch.jit._recursive
from torch import nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
    register_module_full_backward_hook,
)
from torch.utils.hooks import RemovableHandle

from shim.patch import Applied
from shim.patches.forward_hooks_with_kwargs import PATCH

TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])
NATIVE = TORCH >= (2, 0)
on_old_torch = pytest.mark.skipif(NATIVE, reason="torch 2 has hooks with kwargs: nothing is ever replaced")

FORWARD = "_forward_hooks_with_kwargs"
FORWARD_PRE = "_forward_pre_hooks_with_kwargs"


def _targets() -> List[Tuple[Any, str]]:
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


TARGETS = _targets()
ORIGINALS = [vars(owner)[name] for owner, name in TARGETS]


def _names(indices: List[int]) -> List[str]:
    return [TARGETS[i][1] for i in indices]


def _untouched() -> List[str]:
    found = [vars(owner)[name] for owner, name in TARGETS]
    return _names([i for i, raw in enumerate(found) if raw is ORIGINALS[i]])


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


@pytest.fixture(scope="module")
def old() -> Old:
    return Old()


@pytest.fixture(scope="module", autouse=True)
def applied(old: Old) -> Iterator[Applied]:
    patch = Applied()
    patch.add(PATCH.replacements())
    yield patch
    patch.restore()


@pytest.fixture
def unpatched(applied: Applied) -> Iterator[None]:
    applied.restore()
    yield
    applied.add(PATCH.replacements())


@pytest.fixture
def x() -> torch.Tensor:
    return torch.tensor([1.0, 5.0])


@pytest.fixture
def module() -> Scale:
    return Scale()


def recorder(log: List[Any], label: str, *, with_kwargs: bool) -> Any:
    """Return a hook that writes its label, and the keyword arguments when it is given them."""

    def plain(module: nn.Module, args: Any, *output: Any) -> None:
        log.append(label)

    def seeing(module: nn.Module, args: Any, kwargs: Any, *output: Any) -> None:
        log.append((label, dict(kwargs)))

    return seeing if with_kwargs else plain


# What is replaced, and when.


def test_patch_is_needed_no_longer() -> None:
    assert PATCH.is_broken() is False
    assert PATCH.expected is not NATIVE


def test_every_target_is_replaced_on_old_torch_and_none_on_torch_2() -> None:
    assert _untouched() == ([name for _, name in TARGETS] if NATIVE else [])


def test_applying_when_not_needed_does_nothing() -> None:
    before = [vars(owner)[name] for owner, name in TARGETS]
    assert PATCH.replacements() == ()
    again = Applied()
    again.add(PATCH.replacements())
    again.restore()
    assert all(vars(owner)[name] is raw for (owner, name), raw in zip(TARGETS, before))


@on_old_torch
def test_restoring_gives_back_the_very_objects(unpatched: None) -> None:
    assert _untouched() == [name for _, name in TARGETS]
    assert PATCH.is_broken() is True
    with pytest.raises(TypeError, match="with_kwargs"):
        Scale().register_forward_pre_hook(times_ten, with_kwargs=True)


@on_old_torch
def test_instances_outlive_the_patch(applied: Applied, module: Scale, x: torch.Tensor) -> None:
    handles = [
        module.register_forward_pre_hook(times_ten, with_kwargs=True),
        module.register_forward_hook(add_factor, with_kwargs=True),
    ]
    stored = pickle.dumps((module, handles))
    applied.restore()
    try:
        copied, copied_handles = copy.deepcopy((module, handles))
        loaded, loaded_handles = pickle.loads(stored)
        for each, its_handles in ((module, handles), (copied, copied_handles), (loaded, loaded_handles)):
            for handle in its_handles:
                handle.remove()
            assert each(x).tolist() == [2.0, 10.0]
            assert torch.jit.script(each)(x).tolist() == [2.0, 10.0]
    finally:
        applied.add(PATCH.replacements())
    module.register_forward_pre_hook(times_ten, with_kwargs=True)
    assert module(x).tolist() == [20.0, 100.0]


def test_importing_the_patch_does_not_import_torch() -> None:
    code = "import sys, shim.patches.forward_hooks_with_kwargs; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("name", ["register_forward_pre_hook", "register_forward_hook"])
def test_signature_and_name_are_upstreams(name: str) -> None:
    function = getattr(nn.Module, name)
    keywords = list(inspect.signature(function).parameters.values())[2:]
    assert [p.name for p in keywords][:2] == ["prepend", "with_kwargs"]
    assert all(p.kind is p.KEYWORD_ONLY and p.default is False for p in keywords)
    assert function.__name__ == name
    assert function.__doc__


@pytest.mark.parametrize(
    "function",
    [raw for (owner, _), raw in zip(TARGETS, ORIGINALS) if inspect.isclass(owner)],
    ids=lambda function: function.__qualname__,
)
def test_methods_keep_their_place_and_pickle(function: Any) -> None:
    owner = getattr(sys.modules[function.__module__], function.__qualname__.split(".")[0])
    now = vars(owner)[function.__name__]
    assert (now.__name__, now.__qualname__, now.__module__) == (
        function.__name__,
        function.__qualname__,
        function.__module__,
    )
    assert pickle.loads(pickle.dumps(now)) is now


# Pre-hooks.


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


# Forward hooks.


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


# Order.


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


# Handles.


@pytest.mark.parametrize(
    ("register", "hooks", "extra", "hook"),
    [
        ("register_forward_pre_hook", "_forward_pre_hooks", FORWARD_PRE, times_ten),
        ("register_forward_hook", "_forward_hooks", FORWARD, add_factor),
    ],
)
def test_handle_removes_from_both_dictionaries(
    module: Scale, x: torch.Tensor, register: str, hooks: str, extra: str, hook: Any
) -> None:
    handle = getattr(module, register)(hook, with_kwargs=True)
    assert vars(module)[hooks] == {handle.id: hook}
    assert vars(module)[extra] == {handle.id: True}
    handle.remove()
    assert vars(module)[hooks] == {}
    assert vars(module)[extra] == {}
    handle.remove()
    assert module(x).tolist() == [2.0, 10.0]


def test_handle_removes_only_its_own(module: Scale, x: torch.Tensor) -> None:
    first = module.register_forward_pre_hook(times_ten, with_kwargs=True)
    module.register_forward_pre_hook(times_ten, with_kwargs=True)
    first.remove()
    assert module(x).tolist() == [20.0, 100.0]


def test_handle_is_a_context_manager(module: Scale, x: torch.Tensor) -> None:
    with module.register_forward_pre_hook(times_ten, with_kwargs=True) as handle:
        assert isinstance(handle, RemovableHandle)
        assert module(x).tolist() == [20.0, 100.0]
    assert module(x).tolist() == [2.0, 10.0]
    assert vars(module)[FORWARD_PRE] == {}


def test_handle_leaves_when_its_block_raises(module: Scale, x: torch.Tensor) -> None:
    with pytest.raises(KeyError), module.register_forward_pre_hook(times_ten, with_kwargs=True):
        raise KeyError
    assert module(x).tolist() == [2.0, 10.0]


def test_handle_holds_its_dictionaries_weakly() -> None:
    module = Scale()  # not the fixture, which pytest keeps alive
    handle = module.register_forward_pre_hook(times_ten, with_kwargs=True)
    references = weakref.ref(vars(module)["_forward_pre_hooks"]), weakref.ref(vars(module)[FORWARD_PRE])
    assert len(handle.__getstate__()) == 3
    del module
    gc.collect()
    assert [reference() for reference in references] == [None, None]
    handle.remove()
    if TORCH < (2, 1):  # torch 2.1 and later cannot load the state that they then write: (None, id, (None,))
        pickle.loads(pickle.dumps(handle)).remove()


def test_handle_takes_the_state_of_an_older_torch() -> None:
    hooks: Any = OrderedDict([("other", None)])
    handle = RemovableHandle(hooks)
    hooks[handle.id] = None
    assert handle.__getstate__()[:2] == (hooks, handle.id)
    loaded = RemovableHandle.__new__(RemovableHandle)
    loaded.__setstate__((hooks, handle.id))
    loaded.remove()
    assert hooks == OrderedDict([("other", None)])


def test_handles_have_ids_of_their_own() -> None:
    hooks: Any = OrderedDict()
    first = RemovableHandle(hooks, extra_dict=OrderedDict())
    loaded = RemovableHandle.__new__(RemovableHandle)
    loaded.__setstate__((hooks, first.id + 100, None))
    assert RemovableHandle(hooks).id == first.id + 101


# Copies, and what comes from elsewhere.


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_keep_their_hooks_and_handles(module: Scale, x: torch.Tensor, duplicate: Any) -> None:
    handles = [
        module.register_forward_pre_hook(times_ten, with_kwargs=True),
        module.register_forward_hook(add_factor, with_kwargs=True),
    ]
    twin, twin_handles = duplicate((module, handles))
    assert twin(x).tolist() == [30.0, 110.0]
    for handle in reversed(twin_handles):
        handle.remove()
    assert twin(x).tolist() == [2.0, 10.0]
    assert vars(twin)[FORWARD] == vars(twin)[FORWARD_PRE] == {}
    assert module(x).tolist() == [30.0, 110.0], "removing from the copy reached the original"


def test_state_dict_has_no_trace_of_hooks(module: Scale) -> None:
    module.register_forward_pre_hook(times_ten, with_kwargs=True)
    assert list(module.state_dict()) == ["weight"]
    module.load_state_dict(Scale().state_dict())


def test_modules_made_before_the_patch(old: Old, x: torch.Tensor) -> None:
    old.seen.clear()
    with old.module.register_forward_pre_hook(times_ten, with_kwargs=True):
        assert old.module(x).tolist() == [20.0, 100.0]
    copy.deepcopy(old.handle).remove()
    assert old.module(x).tolist() == [2.0, 10.0]
    assert old.seen.count("plain") == 2


def test_handles_made_before_the_patch(old: Old, x: torch.Tensor) -> None:
    assert NATIVE or "extra_dict_ref" not in vars(old.doomed)
    assert old.doomed.__getstate__()[1] == old.doomed.id
    old.doomed.remove()
    old.seen.clear()
    old.module(x)
    assert old.seen == ["plain"]


def test_modules_unpickled_without_the_dictionaries(module: Scale, x: torch.Tensor) -> None:
    log: List[Any] = []
    module.register_forward_pre_hook(recorder(log, "plain", with_kwargs=False))
    state = {name: value for name, value in vars(module).items() if name not in (FORWARD, FORWARD_PRE)}
    loaded = Scale.__new__(Scale)
    loaded.__setstate__(state)
    assert loaded(x).tolist() == [2.0, 10.0]
    loaded.register_forward_hook(add_factor, with_kwargs=True)
    loaded.register_forward_pre_hook(times_ten, with_kwargs=True)
    assert loaded(x).tolist() == [30.0, 110.0]
    assert log == ["plain", "plain"]


@on_old_torch
def test_modules_without_kwargs_hooks_get_no_dictionaries(module: Scale, x: torch.Tensor) -> None:
    module.register_forward_pre_hook(lambda module, args: None, prepend=True)
    module.register_forward_hook(lambda module, args, output: None)
    module(x)
    assert vars(module).keys().isdisjoint({FORWARD, FORWARD_PRE})


def test_subclass_with_its_own_call(x: torch.Tensor) -> None:
    counting = Counting()
    counting.register_forward_pre_hook(times_ten, with_kwargs=True)
    assert counting(x).tolist() == [20.0, 100.0]
    assert counting.calls == 1


def test_call_impl_and_call_are_both_hooked(module: Scale, x: torch.Tensor) -> None:
    module.register_forward_pre_hook(times_ten, with_kwargs=True)
    assert module._call_impl(x).tolist() == nn.Module.__call__(module, x).tolist() == [20.0, 100.0]


def test_hooks_inside_a_model(x: torch.Tensor) -> None:
    outer = Outer()
    outer.inner.register_forward_pre_hook(times_ten, with_kwargs=True)
    assert outer(x).tolist() == [61.0, 301.0]


# Errors.


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


# Backward.


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


# Tracing and scripting.


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
