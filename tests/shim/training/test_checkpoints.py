"""Gradient checkpoints in a mixed batch: what is run again is run under the names of its own call."""

import threading

import peft
import pytest
import torch
from torch import nn

import shim
from shim import recompute, training
from tests.shim.training.trained import (
    NAMES,
    assert_same,
    gradients,
    llama,
    llama_row,
    loss_of,
    noted,
    sequential,
    tokens,
    trainable,
)

CHECKPOINTS = [None, True, False]


@pytest.mark.parametrize("reentrant", CHECKPOINTS)
def test_several_batches_may_wait_for_one_backward(reentrant):
    """Each checkpoint is run again under the names of its own call, also on another thread."""
    other = ["ben", "ann", "ann", "__base__"]
    first, second = tokens(seed=3), tokens(length=7, seed=4)
    model = llama()
    sequential(model, llama_row(first))
    want = sequential(model, llama_row(second), names=other)

    model = llama(reentrant)
    loss = loss_of(model(input_ids=first, adapter_names=NAMES).logits)
    loss = loss + loss_of(model(input_ids=second, adapter_names=other).logits)
    thread = threading.Thread(target=loss.backward)
    thread.start()
    thread.join()
    assert_same(gradients(model), want)


def test_a_torch_whose_checkpoints_would_forget_the_names_is_refused(monkeypatch):
    from torch.utils import checkpoint

    assert recompute.remembers()
    shim.uninstall()
    assert not recompute.remembers.__wrapped__()  # it is the patch that remembers
    shim.install()
    assert recompute.remembers.__wrapped__()
    name = next(name for name in recompute._WITHOUT_REENTRY if hasattr(checkpoint, name))
    monkeypatch.setattr(checkpoint, name, getattr(checkpoint, name).__wrapped__)
    monkeypatch.setattr(training, "remembers", recompute.remembers.__wrapped__)
    with pytest.raises(shim.RefusedError, match="forget the names"):
        llama().train()(input_ids=tokens(), adapter_names=NAMES)


def test_a_checkpoint_draws_the_same_again():
    """The dropout of a layer that is run again drops what it dropped."""
    found = []
    for reentrant in CHECKPOINTS:
        model = llama(reentrant, dropout=0.3, attention_dropout=0.2)
        torch.manual_seed(5)
        loss_of(model(input_ids=tokens(), adapter_names=NAMES).logits).backward()
        found.append(gradients(model))
    assert_same(found[1], found[0])
    assert_same(found[2], found[0])


class ForeignCheckpoint(torch.autograd.Function):
    """What another library's checkpoint does: the forward without gradients, and once more in the backward."""

    @staticmethod
    def forward(ctx, function, x):
        ctx.function = function
        ctx.save_for_backward(x)
        with torch.no_grad():
            return function(x)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            torch.autograd.backward(ctx.function(x), grad)
        return None, x.grad


class Through(nn.Module):
    def __init__(self, linear):
        super().__init__()
        self.inner = linear

    def forward(self, x):
        return ForeignCheckpoint.apply(self.inner, x)


@pytest.mark.parametrize("names", [NAMES, ["ben"] * 4])
def test_a_checkpoint_of_another_library_is_refused(names):
    """It would run its layers again under whatever is active then."""
    model, x = noted(), torch.randn(4, 4, dtype=torch.float64, requires_grad=True)
    model.base_model.model.linear = Through(model.base_model.model.linear)
    with pytest.raises(shim.RefusedError, match=r"torch\.no_grad\(\) inside a training call"):
        model(x, adapter_names=names)


def test_a_selective_checkpoint_keeps_the_products_that_it_saved():
    """Its policy holds what matrix products gave, which nobody may write over."""
    checkpoint = pytest.importorskip("torch.utils.checkpoint")
    if not hasattr(checkpoint, "create_selective_checkpoint_contexts"):
        pytest.skip("this torch has no selective checkpoints")
    products = (torch.ops.aten.mm.default, torch.ops.aten.bmm.default, torch.ops.aten.addmm.default)

    def policy(context, operation, *args, **kwargs):
        saved = checkpoint.CheckpointPolicy.MUST_SAVE, checkpoint.CheckpointPolicy.PREFER_RECOMPUTE
        return saved[operation not in products]

    def contexts():
        return checkpoint.create_selective_checkpoint_contexts(policy)

    found = []
    for options in (None, {"use_reentrant": False, "context_fn": contexts}):
        model = llama()
        if options is not None:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
            model.enable_input_require_grads()
        loss_of(model(input_ids=tokens(), adapter_names=NAMES).logits).backward()
        found.append(gradients(model))
    assert_same(*found)


def nested(reentrant):
    """A model whose `ann` saves the module in which `ben` adapts a layer."""
    model = llama(reentrant).unload()
    settings = {"ann": {"modules_to_save": ["mlp"]}, "ben": {"target_modules": ["v_proj", "down_proj"], "r": 3}}
    configs = {name: peft.LoraConfig(**{"target_modules": ["q_proj"], **more}) for name, more in settings.items()}
    adapted = peft.get_peft_model(model, configs["ann"], adapter_name="ann")
    adapted.add_adapter("ben", configs["ben"])
    return trainable(adapted.double(), ("ann", "ben")).train()


@pytest.mark.parametrize("reentrant", CHECKPOINTS)
def test_an_adapter_inside_of_anothers_saved_module_is_trained_in_one_pass(reentrant):
    shim.install(fallback="refuse")
    model, want = nested(reentrant), sequential(nested(None), llama_row(tokens()))
    if reentrant is not None:
        model.enable_input_require_grads()
    loss_of(model(input_ids=tokens(), adapter_names=NAMES).logits).backward()
    assert_same(gradients(model), want)
