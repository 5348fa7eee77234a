"""Three adapters trained on real images in one pass a step, over one frozen base: what training each alone gives.

    python examples/train_many_adapters.py

Each adapter learns another question about scikit-learn's handwritten digits: is it odd, is it greater than four, is
it round (0, 6, 8 or 9)? A batch holds images for all three, named row by row; one forward and one backward pass give
each adapter the gradient of its own rows. The same batches, one adapter at a time, end in the same weights. About
twenty seconds on 2 cores.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Callable

import torch
from peft import LoraConfig, get_peft_model
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy
from transformers import ViTConfig, ViTForImageClassification

import shim

QUESTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "odd": lambda digits: digits % 2,
    "greater": lambda digits: (digits > 4).long(),
    "round": lambda digits: torch.isin(digits, torch.tensor([0, 6, 8, 9])).long(),
}
EACH = 32  # rows of each adapter in a batch


@dataclass(frozen=True)
class Result:
    """Losses of the first and the last step and accuracies by adapter; how far the two ways' weights are apart."""

    first: dict[str, float]
    last: dict[str, float]
    accuracy: dict[str, float]
    moved: float
    difference: float


def main(steps: int = 120) -> Result:
    """Train for the given number of steps, mixed and one adapter at a time; print and return what came of it."""
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float64)[:, None] / 8 - 1
    labels = torch.tensor(digits.target)
    batches = [torch.randint(1200, (len(QUESTIONS), EACH)) for _ in range(steps)]
    start = build()
    mixed, alone = copy.deepcopy(start), copy.deepcopy(start)
    shim.install()
    try:
        losses = train(mixed, batches, images, labels, step_mixed)
    finally:
        shim.uninstall()
    train(alone, batches, images, labels, step_one_at_a_time)
    result = Result(
        first=losses[0],
        last=losses[-1],
        accuracy={name: accuracy(mixed, name, images[1200:], labels[1200:]) for name in QUESTIONS},
        moved=distance(start, mixed),
        difference=distance(mixed, alone),
    )
    for name in QUESTIONS:
        loss = f"loss {result.first[name]:.3f} to {result.last[name]:.3f}"
        print(f"{name}: {loss}, {result.accuracy[name]:.0%} right on images it has not seen")
    print(f"mixed and one at a time: weights within {result.difference:.0e}, after moving by {result.moved:.2f}")
    return result


def build() -> Any:
    """Return a small ViT with an adapter and a head for each question, in training mode; only these are trained."""
    config = ViTConfig(
        image_size=8, patch_size=2, num_channels=1, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_labels=2, initializer_range=0.2, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", modules_to_save=["classifier"])
    model = None
    for name in QUESTIONS:
        if model is None:
            model = get_peft_model(ViTForImageClassification(config), lora, adapter_name=name)
        else:
            model.add_adapter(name, lora)
    assert model is not None
    for path, weight in model.named_parameters():  # set_adapter lets only the active adapter's weights require grad
        weight.requires_grad_(any(name in path.split(".") for name in QUESTIONS))
    return model.double().train()


def train(model: Any, batches: Any, images: torch.Tensor, labels: torch.Tensor, step: Any) -> list[dict[str, float]]:
    """Train on the batches, each a row of indices for every adapter; return the losses of every step."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=3e-3)
    losses = []
    for rows in batches:
        losses.append(step(model, rows, images, labels))
        optimizer.step()
        optimizer.zero_grad()
    return losses


def step_mixed(model: Any, rows: torch.Tensor, images: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """One forward and one backward pass for all adapters."""
    names = [name for name in QUESTIONS for _ in range(EACH)]
    logits = model(pixel_values=images[rows.flatten()], adapter_names=names).logits.view(len(QUESTIONS), EACH, 2)
    losses = {
        name: cross_entropy(own, answer(labels[some]))
        for (name, answer), own, some in zip(QUESTIONS.items(), logits, rows)
    }
    torch.stack(list(losses.values())).sum().backward()
    return {name: loss.item() for name, loss in losses.items()}


def step_one_at_a_time(model: Any, rows: torch.Tensor, images: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """A forward and a backward pass for each adapter."""
    losses = {}
    for (name, answer), some in zip(QUESTIONS.items(), rows):
        model.set_adapter(name)
        loss = cross_entropy(model(pixel_values=images[some]).logits, answer(labels[some]))
        loss.backward()
        losses[name] = loss.item()
    return losses


@torch.no_grad()
def accuracy(model: Any, name: str, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the share of right answers of one adapter."""
    model.eval().set_adapter(name)
    found = model(pixel_values=images).logits.argmax(1)
    return float((found == QUESTIONS[name](labels)).double().mean())


def distance(one: Any, other: Any) -> float:
    """Return the largest difference between two models' weights."""
    pairs = zip(one.parameters(), other.parameters())
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
