"""Random weights in which every parameter matters.

Libraries initialise for training: biases and some embeddings at zero, norms at one, matrices near zero. Under
such weights an adapter hardly shows, and a lost bias or a swapped norm not at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

OFFSET = 0.3
"""Standard deviation of biases, and of a norm's weight around one and minus one."""

CONVOLUTION_GAIN = 1.6
"""What a convolution multiplies variance by: less, and deep images fade; more, and they drown attention."""


def randomize(module: torch.nn.Module, generator: torch.Generator) -> None:
    """Overwrite every floating-point parameter, and the statistics of batch norms, with seeded noise.

    Matrices keep the size of what passes through them, so that activations, attention scores and an expert
    router's logits are all of order one: far from ties, far from saturation. Tied parameters stay tied.
    """
    import torch

    done = set()
    with torch.no_grad():
        for owner in module.modules():
            for name, parameter in owner.named_parameters(recurse=False):
                if id(parameter) not in done and parameter.is_floating_point():
                    done.add(id(parameter))
                    parameter.normal_(0.0, _spread(owner, name, parameter), generator=generator)
                    if name == "weight" and parameter.dim() == 1:
                        _away_from_zero(parameter, generator)
            if isinstance(owner, torch.nn.modules.batchnorm._BatchNorm):
                _randomize_statistics(owner, generator)


def _spread(owner: torch.nn.Module, name: str, parameter: torch.Tensor) -> float:
    """Return the standard deviation that `parameter`, called `name` in `owner`, should have."""
    import torch

    if parameter.dim() < 2 or name.endswith("bias"):
        return OFFSET
    if isinstance(owner, torch.nn.Embedding):
        return 1.0
    if isinstance(owner, torch.nn.modules.conv._ConvNd):
        return float((CONVOLUTION_GAIN / parameter[0].numel()) ** 0.5)
    if type(owner).__name__ == "Conv1D":  # transformers' Linear with its weight transposed
        return float(parameter.shape[0] ** -0.5)
    return float(parameter.shape[-1] ** -0.5)


def _away_from_zero(weight: torch.Tensor, generator: torch.Generator) -> None:
    """Move a norm's weight to either side of zero, by one.

    Both signs: else, where the output embedding is tied to the input's, every token's successor is itself.
    """
    import torch

    weight.add_(2.0 * torch.randint(0, 2, weight.shape, generator=generator).to(weight) - 1.0)


def _randomize_statistics(norm: torch.nn.modules.batchnorm._BatchNorm, generator: torch.Generator) -> None:
    """Give a batch norm statistics as after training, so that evaluation mode normalises something."""
    if norm.running_mean is not None and norm.running_var is not None:
        norm.running_mean.normal_(0.0, OFFSET, generator=generator)
        norm.running_var.uniform_(0.5, 1.5, generator=generator)
