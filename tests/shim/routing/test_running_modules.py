"""A trace is told of modules by the call of all modules, which other threads and their errors do not feel."""

import pytest
import torch
from torch import nn
from torch.nn.modules import module as torch_modules

import shim
from tests.shim.routing.rows_alone import NAMES, X, check_rows


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
