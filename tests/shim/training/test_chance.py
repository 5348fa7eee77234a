"""Dropout, and layers that are left out by chance: each row by its own adapter, drawn as in one forward."""

import random

import numpy
import peft
import pytest
import torch
from torch import nn

from tests.shim.training.trained import (
    LOADED,
    NAMES,
    assert_same,
    gradients,
    llama,
    llama_row,
    loss_of,
    sequential,
    tokens,
    trainable,
)


class Masked(nn.Module):
    """A dropout whose mask is given: in training mode it keeps the features of its adapter's `kept`."""

    def __init__(self, kept):
        super().__init__()
        self.kept = kept

    def forward(self, x):
        keep = torch.arange(x.shape[-1]) % 4 != self.kept
        return x * keep / 0.75 if self.training else x


def with_masks(model):
    for module in model.modules():
        for index, name in enumerate(LOADED):
            if name in getattr(module, "lora_dropout", ()):
                module.lora_dropout[name] = Masked(index)
    return model.train()


def test_rows_are_dropped_by_their_own_adapter():
    want = sequential(with_masks(llama(dropout=0.1)), llama_row(tokens()))
    model = with_masks(llama(dropout=0.1))
    loss_of(model(input_ids=tokens(), adapter_names=NAMES).logits).backward()
    assert_same(gradients(model), want)
    without = sequential(llama(), llama_row(tokens()))
    worst = max((want[p] - without[p]).abs().max() for p in want if want[p] is not None)
    assert worst > 1e-3, "the masks change nothing"


@pytest.mark.parametrize("probabilities", [(0.5, 0.5), (0.25, 0.75), (0.5, 0.0)])
def test_rows_are_dropped_with_their_adapters_probability(probabilities):
    """The base gives 0 and each adapter the identity, so that the output is the dropout itself."""
    width = 400
    base = nn.Sequential(nn.Linear(width, width, bias=False))
    nn.init.zeros_(base[0].weight)
    settings = {"r": width, "lora_alpha": width, "target_modules": ["0"]}
    one, other = (peft.LoraConfig(lora_dropout=p, **settings) for p in probabilities)
    model = peft.get_peft_model(base, one, adapter_name="ann")
    model.add_adapter("ben", other)
    for path, weight in model.named_parameters():
        if "lora" in path:
            weight.data = torch.eye(width)
            weight.requires_grad_(True)
    rows = model.train()(torch.ones(8, width), adapter_names=["ann", "ben", "__base__", "ann"] * 2)
    assert not rows[[2, 6]].any()
    for name, indices in (("ann", [0, 3, 4, 7]), ("ben", [1, 5])):
        p = probabilities[name == "ben"]
        kept = rows[indices] != 0
        torch.testing.assert_close(rows[indices][kept], torch.full_like(rows[indices][kept], 1 / (1 - p)))
        spread = (p * (1 - p) / kept.numel()) ** 0.5
        assert abs(kept.double().mean() - (1 - p)) <= 5 * spread
    assert not torch.equal(rows[0], rows[3]) or probabilities[0] == 0, "two rows are dropped alike"


def test_a_training_step_draws_as_one_forward_does():
    """Neither a trace nor the adapters take from the random numbers of the model's own dropout."""
    model = llama(attention_dropout=0.5)
    torch.manual_seed(5)
    model(input_ids=tokens())
    after = torch.get_rng_state()
    for _ in range(2):  # traced, then replayed
        torch.manual_seed(5)
        state, array = random.getstate(), numpy.random.get_state()[1].tolist()
        model(input_ids=tokens(), adapter_names=NAMES)
        assert torch.equal(torch.get_rng_state(), after)
        assert random.getstate() == state
        assert numpy.random.get_state()[1].tolist() == array


def test_a_failed_step_can_be_taken_again():
    model = llama(dropout=0.5, attention_dropout=0.5)
    model(input_ids=tokens(), adapter_names=NAMES)
    torch.manual_seed(5)
    head = model.base_model.model.lm_head
    failing = head.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(input_ids=tokens(), adapter_names=NAMES)
    failing.remove()
    loss_of(model(input_ids=tokens(), adapter_names=NAMES).logits).backward()
    found = gradients(model)
    again = llama(dropout=0.5, attention_dropout=0.5)
    torch.manual_seed(5)
    loss_of(again(input_ids=tokens(), adapter_names=NAMES).logits).backward()
    assert_same(found, gradients(again))


class Skipping(nn.Module):
    """Skips its layers by chance in training mode, as layerdrop does."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))

    def forward(self, x):
        for layer in self.layers:
            if not (self.training and torch.rand([]) < 0.5):
                x = torch.tanh(layer(x))
        return x


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_layers_that_are_skipped_by_chance_are_skipped_for_all_rows_or_for_each_adapter(dropout):
    """With the same draws a row is that of the whole batch under its adapter; else each adapter has its own draws."""
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, target_modules=["0", "1", "2", "3"], lora_dropout=dropout)
    model = peft.get_peft_model(Skipping(), config, adapter_name="ann")
    model.add_adapter("ben", config)
    model = trainable(model.double(), ("ann", "ben")).train()
    x = torch.randn(4, 4, dtype=torch.float64)
    seen = set()
    for seed in range(12):
        torch.manual_seed(seed)
        mixed = model(x, adapter_names=["ann", "ben", "ben", "ann"])
        assert mixed.shape == x.shape
        seen.add(tuple(mixed[0].tolist()))
        if dropout:
            continue
        for name, rows in (("ann", [0, 3]), ("ben", [1, 2])):
            model.set_adapter(name)
            torch.manual_seed(seed)
            torch.testing.assert_close(mixed[rows], model(x)[rows], rtol=1e-9, atol=1e-12)
        trainable(model, ("ann", "ben"))
    assert len(seen) > 3, "nothing was skipped"
