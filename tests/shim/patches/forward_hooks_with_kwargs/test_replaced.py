"""What the patch replaces, and when; what it leaves as it was."""

from __future__ import annotations

import copy
import inspect
import pickle
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from shim.patch import Applied
from shim.patches.forward_hooks_with_kwargs import PATCH
from tests.shim.patches.forward_hooks_with_kwargs.hooked import (
    NATIVE,
    ORIGINALS,
    TARGETS,
    Scale,
    add_factor,
    on_old_torch,
    times_ten,
    untouched,
)


def test_patch_is_needed_no_longer() -> None:
    assert PATCH.is_broken() is False
    assert PATCH.expected is not NATIVE


def test_every_target_is_replaced_on_old_torch_and_none_on_torch_2() -> None:
    assert untouched() == ([name for _, name in TARGETS] if NATIVE else [])


def test_applying_when_not_needed_does_nothing() -> None:
    before = [vars(owner)[name] for owner, name in TARGETS]
    assert PATCH.replacements() == ()
    again = Applied()
    again.add(PATCH.replacements())
    again.restore()
    assert all(vars(owner)[name] is raw for (owner, name), raw in zip(TARGETS, before))


@on_old_torch
def test_restoring_gives_back_the_very_objects(unpatched: None) -> None:
    assert untouched() == [name for _, name in TARGETS]
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
