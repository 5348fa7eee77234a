"""What a draw of inputs knows: the model, its arguments, how many samples, how long, how large, and the randomness."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Tuple

from conformance.models.every.batch import Batch
from conformance.models.every.configs import FIRST_SPECIAL, FIRST_WORD, everywhere, nested


@dataclass
class Feed:
    """One draw for one model. `batch` is filled by the drawers, each of which looks for arguments that it knows."""

    model: Any
    samples: int
    length: int
    generator: Any
    scale: int = 1
    """Images have this many times the configured side; only models of any size take others than 1."""
    uneven: bool = False
    """Whether samples differ in what is packed: in the number or the size of their images."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    model_type: str = ""
    role: str = ""
    """The part of the type that this is, in the words of `Entry`."""

    def __post_init__(self) -> None:
        self.config = self.model.config
        self.batch = Batch(self.samples)
        self.images: List[List[int]] = []
        """How many patches each image of each sample has, where images are packed."""
        self.parameters: Dict[str, bool] = {
            name: parameter.default is inspect.Parameter.empty
            for name, parameter in inspect.signature(self.model.forward).parameters.items()
            if name != "self" and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        }

        self.needed = set(self.facts.get("also", ()))
        for method in ("get_image_features", "get_audio_features"):
            function = self.method(method)
            for name, parameter in inspect.signature(function).parameters.items() if function else ():
                if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
                    self.needed.add(name)

    def method(self, name: str) -> Any:
        """Return the method of the innermost model that has it, whose signature says what it needs; None for none."""
        inner = getattr(self.model, "model", None)
        holders = [getattr(inner, "model", None), inner]
        holders += [getattr(self.model, part, None) for part in ("vlm", "encoder")]
        for holder in (*holders, self.model):
            if hasattr(holder, name):
                return getattr(holder, name)
        return None

    def wants(self, name: str) -> bool:
        """Whether the model has the argument `name` and nothing has been drawn for it."""
        return name in self.parameters and name not in self.batch.arguments and name not in self.facts.get("skip", ())

    def requires(self, name: str) -> bool:
        """Whether the argument `name` is yet to be drawn and the model, or its part that sees or hears, needs it."""
        return self.wants(name) and (self.parameters[name] or name in self.needed)

    def put(self, name: str, tensor: Any) -> None:
        """Give the argument `name` a tensor whose dimension 0 counts the samples."""
        self.batch.tensors[name] = tensor

    def noise(self, *shape: int) -> Any:
        """Return standard normal noise."""
        import torch

        return torch.randn(*shape, generator=self.generator)

    def whole(self, low: int, high: int, *shape: int) -> Any:
        """Return whole numbers from `low` to below `high`."""
        import torch

        return torch.randint(low, high, shape, generator=self.generator)

    @property
    def words(self) -> Tuple[int, int]:
        """The first id of a word, and the first after the words."""
        size = self.setting("vocab_size", default=FIRST_SPECIAL)
        return min(FIRST_WORD, size // 4), min(FIRST_SPECIAL, size)

    def setting(self, *names: str, default: Any = None, within: Optional[Any] = None) -> Any:
        """Return the first of these fields that is set, in the configuration or one inside it."""
        for name in names:
            for config in everywhere(within if within is not None else self.config):
                value = vars(config).get(name)
                if value is None and name in type(config).attribute_map:
                    value = vars(config).get(type(config).attribute_map[name])
                if value is not None:
                    return value
        return default

    def part(self, *kinds: str) -> Optional[Any]:
        """Return the configuration inside this one whose field's name holds one of `kinds`, such as "vision"."""
        for config in everywhere(self.config):
            for name, inner in nested(config).items():
                if any(kind in name for kind in kinds):
                    return inner
        return None

    def pair(self, value: Any) -> Tuple[int, int]:
        """Return height and width of a size that is given as a number or a pair."""
        if isinstance(value, (list, tuple)):
            return (int(value[-2]), int(value[-1])) if len(value) > 1 else (int(value[0]), int(value[0]))
        if isinstance(value, Mapping):
            return int(value["height"]), int(value["width"])
        return int(value), int(value)
