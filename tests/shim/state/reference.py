"""What a PEFT model should be after any sequence of steps: weights in dictionaries, outputs by the definition.

It knows neither PEFT nor the shim. A row's output is computed from the base weights and one adapter's own.
"""

import math
from dataclasses import dataclass, field
from typing import Dict, List, Tuple

import torch
from torch import nn
from torch.nn.functional import layer_norm, linear

BASE = "__base__"
LAYERS = ("first", "second")  # that adapters may target
SAVED = ("norm", "head")  # that adapters may save
ROOT = "base_model.model"
TOLERANCE = 1e-10

Weights = Dict[Tuple[str, str], torch.Tensor]


class Toy(nn.Module):
    """Two layers, and two modules that adapters may save."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 4)
        self.norm, self.head = nn.LayerNorm(4), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.norm(torch.tanh(self.second(torch.tanh(self.first(x))))))


def draw(shape, generator):
    """Numbers that single precision holds exactly, so that a model may pass through it."""
    return torch.randint(-12, 13, shape, generator=generator).double() / 8


@dataclass(frozen=True)
class Recipe:
    """How an adapter is made."""

    rank: int
    alpha: int
    root_scaling: bool
    targets: Tuple[str, ...]
    saves: Tuple[str, ...]
    seed: int


@dataclass
class Adapter:
    """weights: by (module, "A"), (module, "B"), or for a saved module (module, "weight"), (module, "bias")."""

    weights: Weights
    scaling: Dict[str, float]

    @classmethod
    def of(cls, recipe, base):
        generator = torch.Generator().manual_seed(recipe.seed)
        weights, rank = {}, recipe.rank
        for layer in recipe.targets:
            out, width = base[layer, "weight"].shape
            weights[layer, "A"], weights[layer, "B"] = draw((rank, width), generator), draw((out, rank), generator)
        for module in recipe.saves:
            for part in ("weight", "bias"):
                weights[module, part] = draw(base[module, part].shape, generator)
        return cls(
            weights, dict.fromkeys(recipe.targets, recipe.alpha / (math.sqrt(rank) if recipe.root_scaling else rank))
        )

    def copy(self):
        return Adapter({key: weight.clone() for key, weight in self.weights.items()}, dict(self.scaling))

    def delta(self, layer):
        """What the adapter adds to the weight of `layer`; 0 where it does not target it."""
        if layer not in self.scaling:
            return 0
        return self.scaling[layer] * self.weights[layer, "B"] @ self.weights[layer, "A"]

    @property
    def saves(self):
        return {module for module, _ in self.weights if module in SAVED}


@dataclass
class Reference:
    """The base weights, never merged; the adapters in the order of loading; which are active, merged, disabled."""

    base: Weights
    adapters: Dict[str, Adapter] = field(default_factory=dict)
    active: List[str] = field(default_factory=list)
    enabled: bool = True
    merged: Dict[str, List[str]] = field(default_factory=lambda: {layer: [] for layer in LAYERS})
    wrapped: set = field(default_factory=set)

    def add(self, name, adapter):
        self.adapters[name] = adapter
        self.wrapped |= {module for module, _ in adapter.weights}

    @property
    def is_merged(self):
        return any(self.merged.values())

    def rows(self, x, names):
        """Return the output of each row of `x` under its adapter alone."""
        rows = [self._run(row[None], [] if name == BASE else [name]) for row, name in zip(x, names)]
        return torch.cat(rows)

    def plain(self, x):
        """Return the output for `x` without names. As in PEFT, a disabled layer that runs is unmerged for good."""
        if not self.enabled:
            self.unmerge()
            return self._run(x, [])
        return self._run(x, self.active, self.merged)

    def _run(self, x, names, merged=None):
        def layer(module, value):
            # As in PEFT, a layer that holds merged adapters runs those, whichever are active (huggingface/peft#3756).
            return linear(value, self._weight(module, (merged or {}).get(module) or names), self.base[module, "bias"])

        def saved(module):
            owners = [self.adapters[name] for name in names if module in self.adapters[name].saves]
            held = owners[0].weights if owners else self.base
            return held[module, "weight"], held[module, "bias"]

        hidden = torch.tanh(layer("second", torch.tanh(layer("first", x))))
        return linear(layer_norm(hidden, hidden.shape[-1:], *saved("norm")), *saved("head"))

    def _weight(self, layer, names):
        return self.base[layer, "weight"] + sum(self.adapters[name].delta(layer) for name in names)

    def merge(self, names):
        for layer, held in self.merged.items():
            held += [name for name in names if layer in self.adapters[name].scaling and name not in held]

    def unmerge(self):
        for held in self.merged.values():
            held.clear()

    def step(self, trained, x, names, rate):
        """Train the adapter `trained` one step of gradient descent on the mean square of the rows' outputs."""
        weights = self.adapters[trained].weights
        for weight in weights.values():
            weight.requires_grad_(True)
        loss = self.rows(x, names).square().mean()
        found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True) if loss.requires_grad else ()
        for weight in weights.values():
            weight.requires_grad_(False)
        for weight, gradient in zip(weights.values(), found):
            if gradient is not None:
                weight.sub_(rate * gradient)

    def round_to_single(self):
        for held in [self.base, *(adapter.weights for adapter in self.adapters.values())]:
            held.update({key: weight.float().double() for key, weight in held.items()})

    def parameter(self, name, key):
        """Return the path of an adapter's weight in the PEFT model."""
        module, part = key
        where = f"modules_to_save.{name}.{part}" if module in SAVED else f"lora_{part}.{name}.weight"
        return f"{ROOT}.{module}.{where}"

    def state_dict(self):
        """Return what the PEFT model's own should be."""
        found = {}
        for (module, part), weight in self.base.items():
            inside = "" if module not in self.wrapped else "original_module." if module in SAVED else "base_layer."
            is_merged = part == "weight" and module in LAYERS
            value = self._weight(module, self.merged[module]) if is_merged else weight
            found[f"{ROOT}.{module}.{inside}{part}"] = value
        for name, adapter in self.adapters.items():
            found.update({self.parameter(name, key): weight for key, weight in adapter.weights.items()})
        return found


def assert_same(observed, expected, what):
    error = (observed - expected).abs().max().item()
    assert error <= TOLERANCE, f"{what} is off by {error:.3g}, but should be the plain model's"
