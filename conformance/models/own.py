"""A user's own model as the suite's: made by a function of theirs, fed their inputs, adapted on its linear layers."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Set

from conformance.models.model import Model
from conformance.models.named import is_of_transformers, made_by
from conformance.selection import OWN, CannotLoad

if TYPE_CHECKING:
    import torch

    from conformance.models.model import Inputs

_LINEAR = ("Linear", "Conv1D")


@functools.lru_cache(maxsize=None)
def own_model(name: str) -> Model:
    """Return the model called `own:` and what `made_by` takes, as data for the checks.

    Its inputs are tensors with one entry per sample along dim 0, of two samples or more. Adapters of the suite's own
    are put on its linear layers; those that it has are taken off.

    Raises:
        CannotLoad: there is no such model.
    """
    spec = name[len(OWN) :]
    model, inputs = made_by(spec)
    _check_inputs(spec, inputs)
    model = _without_adapters(model)
    targets = tuple(_targets(model))
    if not targets:
        raise CannotLoad(f"{spec} returned a {type(model).__name__}, which has no linear layer to adapt")
    samples = len(next(iter(inputs.values())))

    def draw(count: int, length: int, generator: torch.Generator) -> Inputs:
        """Return rows of the user's inputs in any order, again and again where there are not as many."""
        import torch

        order = torch.randperm(samples, generator=generator).repeat(-(-count // samples))[:count]
        return {key: value.cpu().index_select(0, order) for key, value in inputs.items()}

    return Model(
        name=name,
        architecture=type(model).__name__ if is_of_transformers(model) else "",
        build=lambda: _without_adapters(made_by(spec)[0]),
        inputs=draw,
        targets=targets,
        saved=(),
        tags=frozenset(_tags(model, inputs)),
        lengths=(1,),
    )


def _check_inputs(spec: str, inputs: Dict[str, Any]) -> None:
    import torch

    odd = sorted(key for key, value in inputs.items() if not isinstance(value, torch.Tensor) or not value.dim())
    if odd or not inputs:
        raise CannotLoad(f"{spec} returned inputs {odd or inputs}, but should tensors with samples along dim 0")
    counts = {key: len(value) for key, value in inputs.items()}
    if len(set(counts.values())) > 1 or min(counts.values()) < 2:
        raise CannotLoad(f"{spec} returned inputs of {counts} samples, but should of the same two or more")


def _without_adapters(model: Any) -> Any:
    if not (hasattr(model, "peft_config") and hasattr(model, "unload")):
        return model
    base = model.unload()
    vars(base).pop("peft_config", None)  # which PEFT leaves on it, up to 0.14 at least
    return base


def _targets(model: Any) -> Iterator[str]:
    """Yield for each kind of linear layer the shortest ending of its path that no other module has."""
    kinds = {path: type(module).__name__ for path, module in model.named_modules()}
    found: List[str] = []
    for path, kind in kinds.items():
        parts = path.split(".")
        endings = [".".join(parts[-count:]) for count in range(1, len(parts) + 1)]
        if kind not in _LINEAR or any(ending in found for ending in endings):
            continue
        alike = (ending for ending in endings if all(kinds[other] in _LINEAR for other in _ending_in(ending, kinds)))
        found.append(next(alike, path))
        yield found[-1]


def _ending_in(ending: str, paths: Dict[str, str]) -> List[str]:
    return [path for path in paths if path == ending or path.endswith(f".{ending}")]


def _tags(model: Any, inputs: Dict[str, Any]) -> Set[str]:
    """Return what the checks must know: whether it generates, and whether a router may be near a tie."""
    tags: Set[str] = set()
    config = getattr(model, "config", None)
    generates = "input_ids" in inputs and getattr(model, "can_generate", bool)()
    if generates and not getattr(config, "is_encoder_decoder", False):
        tags |= {"causal-lm", "generates"}
    if any("Expert" in type(module).__name__ for module in model.modules()):
        tags.add("experts")
    return tags
