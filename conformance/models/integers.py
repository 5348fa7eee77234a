"""Three small modules over whole numbers, so that every order of summation gives the same float.

Weights and biases are -1, 0 or 1. Float32 holds every whole number up to 2**24, and no sum can pass that, not
even with LoRA on every target: weights of -1, 0 or 1, rank times scaling at most 16, scaling a power of two.
This file imports torch: only functions import it.
"""

from __future__ import annotations

from typing import Dict

import torch

LARGEST_STATE = 4
WORDS, WIDTH, INNER, CLASSES = 16, 8, 16, 5


class Integers(torch.nn.Module):
    """`input_ids` of (samples, length) to a tensor of (samples, length, CLASSES)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(WORDS, WIDTH)
        self.up = torch.nn.Linear(WIDTH, INNER)
        self.down = torch.nn.Linear(INNER, WIDTH)
        self.head = torch.nn.Linear(WIDTH, CLASSES)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return the head's numbers for every token."""
        hidden = torch.relu(self.up(self.embedding(input_ids)))
        output: torch.Tensor = self.head(self.down(hidden))
        return output


class FoldedIntegers(torch.nn.Module):
    """`hidden_states` of (samples, even length, WIDTH) to logits of (samples, length, CLASSES).

    Before `down`, the even and the odd tokens of each sample become two rows, as MobileViT's patches do.
    """

    def __init__(self) -> None:
        super().__init__()
        self.up = torch.nn.Linear(WIDTH, INNER)
        self.down = torch.nn.Linear(INNER, WIDTH)
        self.head = torch.nn.Linear(WIDTH, CLASSES)

    def forward(self, hidden_states: torch.Tensor) -> Dict[str, torch.Tensor]:
        """Return `{"logits": ...}` for every token."""
        samples, length, _ = hidden_states.shape
        hidden = torch.relu(self.up(hidden_states))
        folded = hidden.reshape(samples, length // 2, 2, INNER).transpose(1, 2)
        rows = self.down(folded.reshape(2 * samples, length // 2, INNER))
        unfolded = rows.reshape(samples, 2, length // 2, WIDTH).transpose(1, 2)
        return {"logits": self.head(unfolded.reshape(samples, length, WIDTH))}


class SortedIntegers(torch.nn.Module):
    """`hidden_states` of (samples, length, WIDTH) and `lengths` of (samples,) to (samples, length, CLASSES).

    `down` gets the samples from the longest to the shortest, as models do before recurrent layers: Python puts them in
    order, by the values that it reads.
    """

    def __init__(self) -> None:
        super().__init__()
        self.up = torch.nn.Linear(WIDTH, INNER)
        self.down = torch.nn.Linear(INNER, WIDTH)
        self.head = torch.nn.Linear(WIDTH, CLASSES)

    def forward(self, hidden_states: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return the head's numbers for every token; what comes after a sample's length counts as zero."""
        read = lengths.tolist()
        order = sorted(range(len(read)), key=lambda row: -read[row])
        inside = torch.arange(hidden_states.shape[1], device=lengths.device) < lengths[:, None]
        hidden = torch.relu(self.up(hidden_states)) * inside[:, :, None]
        rows = self.down(hidden[order])
        output: torch.Tensor = self.head(rows[[order.index(row) for row in range(len(order))]])
        return output


def whole(module: torch.nn.Module) -> torch.nn.Module:
    """Set every parameter to -1, 0 or 1 under the current torch rng; return the module in evaluation mode."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randint(-1, 2, parameter.shape))
    return module.float().eval()
