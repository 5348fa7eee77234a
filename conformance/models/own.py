"""A user's own model as the suite's: made by a function of theirs, fed their inputs, adapted on its linear layers."""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Set

from conformance.models.bare import without_adapters
from conformance.models.every.targets import linear_layers
from conformance.models.model import Model
from conformance.models.named import is_of_transformers, made_by
from conformance.models.trial import try_alone
from conformance.selection import OWN, CannotLoad

if TYPE_CHECKING:
    import torch

    from conformance.models.model import Inputs


@functools.lru_cache(maxsize=None)
def own_model(name: str) -> Model:
    """Return the model called `own:` and what `made_by` takes, as data for the checks.

    Its inputs are tensors with one entry per sample along dim 0, of two samples or more, no two of them equal. Adapters
    of the suite's own are put on its linear layers; those that it has are taken off.

    Raises:
        CannotLoad: there is no such model, or none that the suite could examine.
    """
    spec = name[len(OWN) :]
    model, inputs = made_by(spec)
    _check_inputs(spec, inputs)
    model = without_adapters(model)
    targets = tuple(_targets(model))
    if not targets:
        raise CannotLoad(f"{spec} returned a {type(model).__name__}, which has no linear layer to adapt")

    def build() -> torch.nn.Module:
        again: torch.nn.Module = without_adapters(made_by(spec)[0])
        return again

    try_alone(spec, model, build, inputs)
    return Model(
        name=name,
        architecture=type(model).__name__ if is_of_transformers(model) else "",
        build=build,
        inputs=functools.partial(_drawn, inputs),
        targets=targets,
        saved=(),
        tags=frozenset(_tags(model, inputs)),
        lengths=(1,),
    )


def _drawn(inputs: Inputs, count: int, length: int, generator: torch.Generator) -> Inputs:
    """Return rows of the user's inputs in any order, again and again where there are not as many."""
    import torch

    samples = len(next(iter(inputs.values())))
    order = torch.randperm(samples, generator=generator).repeat(-(-count // samples))[:count]
    return {key: value.cpu().index_select(0, order) for key, value in inputs.items()}


def _check_inputs(spec: str, inputs: Dict[str, Any]) -> None:
    import torch

    odd = sorted(key for key, value in inputs.items() if not isinstance(value, torch.Tensor) or not value.dim())
    if odd or not inputs:
        raise CannotLoad(
            f"{spec} returned inputs {odd or inputs}, but should tensors with samples along dim 0. Let a module around "
            "the model hold what is the same for all samples"
        )
    counts = {key: len(value) for key, value in inputs.items()}
    if len(set(counts.values())) > 1 or min(counts.values()) < 2:
        raise CannotLoad(f"{spec} returned inputs of {counts} samples, but should of the same two or more")
    for one, other in itertools.combinations(range(min(counts.values())), 2):
        if all(torch.equal(value[one], value[other]) for value in inputs.values()):
            raise CannotLoad(
                f"{spec} returned inputs whose samples {one} and {other} are equal in all of {sorted(inputs)}, but any "
                "two should differ: rows that were mixed or exchanged would not be seen. Draw them, as by torch.randn"
            )


def _targets(model: Any) -> Iterator[str]:
    """Yield for each kind of linear layer the shortest ending of its path that no other module has."""
    linear = {path for path in linear_layers(model) if model.get_submodule(path).weight.is_floating_point()}
    paths = [path for path, _ in model.named_modules()]
    found: List[str] = []
    for path in filter(linear.__contains__, paths):
        parts = path.split(".")
        endings = [".".join(parts[-count:]) for count in range(1, len(parts) + 1)]
        if any(ending in found for ending in endings):
            continue
        found.append(next((ending for ending in endings if linear.issuperset(_ending_in(ending, paths))), path))
        yield found[-1]


def _ending_in(ending: str, paths: List[str]) -> List[str]:
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
