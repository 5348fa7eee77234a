"""Token ids and masks: rows that differ in their tokens and in their padding."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from conformance.models.model import Inputs

PAD, START, END = 0, 1, 3
"""The special ids. CLIP reads an end id of 2 as "the largest id ends the text", so END is another one."""

FIRST_WORD, VOCABULARY = 4, 32

SPECIAL = {"pad_token_id": PAD, "bos_token_id": START, "eos_token_id": END}
"""The configuration fields that name the special ids."""


def left_padded(samples: int, length: int, generator: torch.Generator) -> Inputs:
    """Return ids and mask padded at the left, as a causal language model generates from them."""
    mask = _real_tokens(samples, length, 1, generator).flip(1)
    return _masked(_words(samples, length, length - 1, generator), mask)


def unpadded(samples: int, length: int, generator: torch.Generator) -> Inputs:
    """Return ids and a mask of ones, the rows told apart by their last token as in `left_padded`."""
    import torch

    mask = torch.ones(samples, length, dtype=torch.long)
    return _masked(_words(samples, length, length - 1, generator), mask)


def right_padded(samples: int, length: int, generator: torch.Generator) -> Inputs:
    """Return ids and mask padded at the right, as encoders are trained."""
    mask = _real_tokens(samples, length, 1, generator)
    return _masked(_words(samples, length, 0, generator), mask)


def right_padded_with_end(samples: int, length: int, generator: torch.Generator) -> Inputs:
    """Return ids and mask padded at the right, each row's last real token being END; needs two tokens."""
    mask = _real_tokens(samples, length, 2, generator)
    ids = _words(samples, length, 0, generator)
    ids.scatter_(1, mask.sum(1, keepdim=True) - 1, END)
    return _masked(ids, mask)


def decoder_ids(samples: int, length: int, generator: torch.Generator, start: int) -> torch.Tensor:
    """Return `length` words after the token `start`: what a decoder is given, unpadded."""
    import torch

    first = torch.full((samples, 1), start, dtype=torch.long)
    return torch.cat([first, _words(samples, length, 0, generator)], dim=1)


def _words(samples: int, length: int, anchor: int, generator: torch.Generator) -> torch.Tensor:
    """Return random words whose column `anchor`, which no padding hides, tells the rows apart.

    Distinctness is certain up to as many samples as there are words, and overwhelmingly likely beyond.
    """
    import torch

    ids = torch.randint(FIRST_WORD, VOCABULARY, (samples, length), generator=generator)
    kinds = VOCABULARY - FIRST_WORD
    order = torch.randperm(kinds, generator=generator)[torch.arange(samples) % kinds]
    ids[:, anchor] = FIRST_WORD + order
    return ids


def _real_tokens(samples: int, length: int, least: int, generator: torch.Generator) -> torch.Tensor:
    """Return a mask of ones, then zeros: between `least` and `length` real tokens in each row."""
    import torch

    if length < least:
        raise ValueError(f"{length} tokens per sample are fewer than the {least} that must be real")
    real = torch.randint(least, length + 1, (samples, 1), generator=generator)
    return (torch.arange(length).unsqueeze(0) < real).long()


def _masked(ids: torch.Tensor, mask: torch.Tensor) -> Inputs:
    """Return the model's keywords, with PAD wherever the mask is zero."""
    return {"input_ids": ids * mask + PAD * (1 - mask), "attention_mask": mask}
