"""A trace is told of modules by the call of all modules, which other threads and their errors do not feel."""

import threading
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn.modules import module as torch_modules

import shim
from shim.routing import running_modules
from tests.shim.routing.rows_alone import NAMES, X, check_rows


def told_of():
    """Return how often the running thread's teller is told of a call."""
    seen = []
    (teller,) = running_modules._HERE.tellers
    teller.tell = lambda run, module, *args: seen.append(module) or run(*args)
    nn.Identity()(3)
    return len(seen)


@pytest.fixture
def told():
    """`modules_told` for a tracer of no model's."""

    class Nothing:
        model = nn.Identity()
        layers = ()

    before = nn.Module.__call__
    yield lambda: running_modules.modules_told(None, Nothing)
    assert nn.Module.__call__ is before


def test_modules_are_called_by_torch_again_after_the_last_of_two_threads(told, monkeypatch):
    upstream = nn.Module.__call__
    monkeypatch.setattr(running_modules, "no_compilation", nullcontext)  # which lets one thread in at a time
    entered, left = threading.Event(), threading.Event()

    def other():
        with told():
            entered.set()
            left.wait(10)

    thread = threading.Thread(target=other)
    with told():
        thread.start()
        assert entered.wait(10)
    assert nn.Module.__call__ is not upstream
    assert not running_modules._HERE.tellers
    assert nn.Identity()(3) == 3
    left.set()
    thread.join()


def test_there_are_no_hooks_that_another_threads_error_could_meet(adapted):
    told, hooks = [], []

    def body(toy, x):
        told.append(nn.Module.__call__ is not called)
        hooks.extend(torch_modules._global_forward_hooks)
        return toy.linear(x)

    model, called = adapted(body), nn.Module.__call__
    model(X, adapter_names=NAMES)
    assert any(told)
    assert not hooks
    assert nn.Module.__call__ is called


def test_a_patch_that_outlasts_a_trace_stays_and_may_be_taken_back(told):
    upstream = nn.Module.__call__

    def patched(module, *args):
        return ("patched", before(module, *args))

    with told():
        before = nn.Module.__call__
        nn.Module.__call__ = patched
    try:
        assert nn.Identity()(3) == ("patched", 3)
        with told():
            assert told_of() == 1
        nn.Module.__call__ = before  # whoever patched puts back what was found
        assert nn.Identity()(3) == 3
        with told():
            assert nn.Identity()(3) == 3
            assert told_of() == 1
    finally:
        nn.Module.__call__ = upstream


def of_transformers(experts):
    """Return `experts` as one of transformers' own, whose tokens are believed to be apart."""
    type(experts).__module__ = "transformers.models.toy"
    return experts


def with_experts(adapted, experts):
    model = adapted(lambda toy, x: toy.other(toy.experts(toy.linear(x))), targets=["linear", "other"])
    model.get_base_model().experts = experts.double().eval()
    return model


def make_experts():
    class ToyExperts(nn.Linear):
        pass

    return of_transformers(ToyExperts(4, 4))


def test_experts_are_believed(adapted, alone):
    model = with_experts(adapted, make_experts())
    shim.install(fallback="refuse")
    check_rows(model, alone, X, NAMES)


def flip(rows):
    return rows.flip(0)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda experts: experts.register_forward_pre_hook(lambda _, args: (flip(args[0]),)),
        lambda experts: experts.register_forward_hook(lambda _, args, output: flip(output)),
        lambda experts: setattr(experts, "forward", lambda x: flip(x @ experts.weight.T)),
    ],
    ids=["hook before", "hook after", "forward"],
)
def test_experts_with_something_of_the_users_on_them_are_not_believed(adapted, spoil):
    experts = make_experts()
    spoil(experts)
    model = with_experts(adapted, experts)
    with torch.no_grad(), pytest.raises(shim.RefusedError):
        model(X, adapter_names=NAMES)


def test_experts_that_accelerate_moves_are_believed(adapted, alone):
    experts = make_experts()
    experts._hf_hook, experts.forward = object(), experts.forward
    model = with_experts(adapted, experts)
    shim.install(fallback="refuse")
    check_rows(model, alone, X, NAMES)
