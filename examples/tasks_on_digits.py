"""Three questions about real images, answered in one batch, each row by its own adapter and its own head.

    python examples/tasks_on_digits.py

A small MobileViT reads scikit-learn's handwritten digits. Three adapters answer three questions about them:
which digit is it, is it odd, is it greater than four? Each adapter is a LoRA and a head of its own
(`modules_to_save=["classifier"]`). With the shim, one batch may ask any question of any image, and every row
gets what its adapter alone would have said.

MobileViT folds image patches into the batch dimension, so that inside the model there are more rows than
images. PEFT alone cannot tell which row belongs to which name, and refuses. About a minute on 2 cores.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import Callable

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy, interpolate
from transformers import MobileViTConfig, MobileViTForImageClassification

import shim

# Heads of different output sizes could not stand together in one tensor, and the shim refuses them. So every
# head has ten outputs, and a question with two answers looks at the first two only.
OUTPUTS = 10
BATCH = 64
# The convolutions of MobileViT's transformer blocks; their attention layers have names of their own.
CONVOLUTIONS = ("conv_kxk.convolution", "conv_projection.convolution", "fusion.convolution")


@dataclass(frozen=True)
class Task:
    """A question about a digit; its name is also the name of its adapter."""

    name: str
    answers: int
    label: Callable[[torch.Tensor], torch.Tensor]


TASKS = (
    Task("digit", 10, lambda digits: digits),
    Task("odd", 2, lambda digits: digits % 2),
    Task("greater", 2, lambda digits: (digits > 4).long()),
)
ANSWERS = {task.name: task.answers for task in TASKS}


@dataclass(frozen=True)
class Images:
    """Images of handwritten digits, and the digit on each."""

    pixels: torch.Tensor
    digits: torch.Tensor


@dataclass(frozen=True)
class Comparison:
    """One way of mixing the test set, held against one pass per adapter."""

    rows: int
    same_predictions: bool
    relative_error: float


@dataclass(frozen=True)
class Result:
    """What the example found; accuracies and chances are by the name of the task."""

    chance: dict[str, float]
    sequential: dict[str, float]
    mixed: dict[str, float]
    one_task_an_image: Comparison
    every_task_an_image: Comparison
    without_shim: str
    seconds: float


def main(backbone_steps: int = 250, adapter_steps: int = 200) -> Result:
    """Train for the given number of steps, compare mixed with sequential, print and return the result."""
    start = time.perf_counter()
    torch.manual_seed(0)
    train, test = load_images()
    model = add_adapters(train_backbone(train, backbone_steps), train, adapter_steps)
    without_shim = ask_peft_alone(model, test)
    alone = sequential_logits(model, test)
    shim.install()
    try:
        one_names, one = ask_one_task_an_image(model, test)
        every_names, every = ask_every_task_an_image(model, test)
    finally:
        shim.uninstall()
    mixed = {task.name: every[i :: len(TASKS)] for i, task in enumerate(TASKS)}
    result = Result(
        chance={task.name: chance(task, test) for task in TASKS},
        sequential={task.name: accuracy(task, alone[task.name], test) for task in TASKS},
        mixed={task.name: accuracy(task, mixed[task.name], test) for task in TASKS},
        one_task_an_image=compare(one_names, one, torch.stack([alone[n][i] for i, n in enumerate(one_names)])),
        every_task_an_image=compare(every_names, every, torch.stack(list(alone.values()), 1).flatten(0, 1)),
        without_shim=without_shim,
        seconds=time.perf_counter() - start,
    )
    show(result)
    check(result)
    return result


def load_images() -> tuple[Images, Images]:
    """Return the images to train on and those to test on."""
    digits = load_digits()
    pixels = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1  # 0..16 becomes -1..1
    pixels = interpolate(pixels, size=32, mode="bilinear").repeat(1, 3, 1, 1)  # 8x8 grey to 32x32 colour
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
    train, test = order[:1347], order[1347:]
    return Images(pixels[train], labels[train]), Images(pixels[test], labels[test])


def train_backbone(images: Images, steps: int) -> MobileViTForImageClassification:
    """Return a MobileViT with features worth adapting: trained on the digits, its own head thrown away."""
    config = MobileViTConfig(
        image_size=32,
        hidden_sizes=[32, 32, 32],
        neck_hidden_sizes=[16, 16, 16, 24, 24, 24, 64],
        num_attention_heads=2,
        expand_ratio=1.0,
        output_stride=16,
        initializer_range=0.05,
        hidden_dropout_prob=0.0,
        num_labels=OUTPUTS,
    )
    model = MobileViTForImageClassification(config)
    print(f"training the backbone, {steps} steps")
    model.train()
    fit(model, images.pixels, images.digits, steps)
    model.classifier.reset_parameters()
    return model


def adapter_config() -> LoraConfig:
    """Return what makes an adapter: a LoRA on the transformer blocks, and a head of its own."""
    return LoraConfig(
        r=8,
        lora_alpha=16,
        target_modules=["query", "key", "value", "dense", *CONVOLUTIONS],
        modules_to_save=["classifier"],
    )


def add_adapters(backbone: MobileViTForImageClassification, images: Images, steps: int) -> PeftModel:
    """Return `backbone` with a trained adapter for each task."""
    model = get_peft_model(backbone, adapter_config(), adapter_name=TASKS[0].name)
    for task in TASKS[1:]:
        model.add_adapter(task.name, adapter_config())
    # Evaluation mode, even to train: BatchNorm's running averages belong to the base model, which all
    # adapters share. In training mode each adapter would move them under the others.
    model.eval()
    for task in TASKS:
        print(f"training the adapter {task.name!r}, {steps} steps")
        model.set_adapter(task.name)
        fit(model, images.pixels, task.label(images.digits), steps)
    return model


def fit(model: torch.nn.Module, pixels: torch.Tensor, labels: torch.Tensor, steps: int) -> None:
    """Train what is trainable in `model` on random batches."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(len(pixels), (BATCH,))
        loss = cross_entropy(model(pixel_values=pixels[rows]).logits, labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def ask_peft_alone(model: PeftModel, images: Images) -> str:
    """Return, in one line, what PEFT says to a mixed batch without the shim."""
    names = [task.name for task in TASKS]
    # A copy, because a failed call leaves PEFT's hooks on the model (huggingface/peft#3475).
    model = copy.deepcopy(model)
    try:
        model(pixel_values=images.pixels[: len(names)], adapter_names=names)
    except Exception as error:  # which one depends on the version
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return "no error"


@torch.no_grad()
def sequential_logits(model: PeftModel, images: Images) -> dict[str, torch.Tensor]:
    """Return every adapter's logits on all images, by the ordinary way: one adapter at a time."""
    logits = {}
    for task in TASKS:
        model.set_adapter(task.name)
        logits[task.name] = torch.cat([model(pixel_values=part).logits for part in images.pixels.split(BATCH)])
    return logits


@torch.no_grad()
def mixed_logits(model: PeftModel, pixels: torch.Tensor, names: list[str]) -> torch.Tensor:
    """Return each row's logits under the adapter with its name, many adapters in each batch."""
    logits = []
    for start in range(0, len(names), BATCH):
        rows = slice(start, start + BATCH)
        logits.append(model(pixel_values=pixels[rows], adapter_names=names[rows]).logits)
    return torch.cat(logits)


def ask_one_task_an_image(model: PeftModel, images: Images) -> tuple[list[str], torch.Tensor]:
    """Ask one question of each image, the questions in turn; return the names and the logits."""
    names = [TASKS[i % len(TASKS)].name for i in range(len(images.pixels))]
    return names, mixed_logits(model, images.pixels, names)


def ask_every_task_an_image(model: PeftModel, images: Images) -> tuple[list[str], torch.Tensor]:
    """Ask all questions of each image, side by side; return the names and the logits."""
    names = [task.name for _ in images.pixels for task in TASKS]
    return names, mixed_logits(model, images.pixels.repeat_interleave(len(TASKS), dim=0), names)


def compare(names: list[str], mixed: torch.Tensor, sequential: torch.Tensor) -> Comparison:
    """Hold mixed logits against those of each row's adapter alone."""
    same = all(
        a[: ANSWERS[name]].argmax() == b[: ANSWERS[name]].argmax() for name, a, b in zip(names, mixed, sequential)
    )
    error = (mixed - sequential).abs().max() / sequential.abs().max()
    return Comparison(len(names), same, error.item())


def accuracy(task: Task, logits: torch.Tensor, images: Images) -> float:
    """Return the share of images whose answer is right."""
    right = logits[:, : task.answers].argmax(1) == task.label(images.digits)
    return right.float().mean().item()


def chance(task: Task, images: Images) -> float:
    """Return the accuracy of always giving the most frequent answer."""
    return task.label(images.digits).bincount().max().item() / len(images.digits)


def show(result: Result) -> None:
    """Print the result as a table."""
    table = Table(title="Handwritten digits: accuracy on the test images")
    for column in ("task", "chance", "one adapter at a time", "mixed batches"):
        table.add_column(column, justify="left" if column == "task" else "right")
    for name, by_chance in result.chance.items():
        table.add_row(name, f"{by_chance:.3f}", f"{result.sequential[name]:.3f}", f"{result.mixed[name]:.3f}")
    console = Console()
    console.print(table)
    ways = {"one task an image": result.one_task_an_image, "every task an image": result.every_task_an_image}
    for way, found in ways.items():
        same = "the same predictions" if found.same_predictions else "OTHER PREDICTIONS"
        print(f"{way}: {found.rows} rows, {same}, logits within {found.relative_error:.1e} of the largest")
    print(f"PEFT without the shim: {result.without_shim}")
    print(f"{result.seconds:.0f} seconds")


def check(result: Result) -> None:
    """Raise AssertionError where a mixed batch is not what its adapters alone would give."""
    for found in (result.one_task_an_image, result.every_task_an_image):
        assert found.same_predictions, found
        assert found.relative_error < 1e-4, found


if __name__ == "__main__":
    torch.set_num_threads(1)  # batches this small gain nothing from more, and lose much on a busy machine
    main()
