"""Chapter Algebra: what `add_weighted_adapter` makes is what its way of combining promises (A2)."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Dict, List, Sequence, Tuple

from conformance.case import Case
from conformance.checks.algebra import adapter_layers, deltas, with_power
from conformance.checks.check import check
from conformance.compare import Evidence, Inapplicable, Mismatch, compare_row, relative_error
from conformance.scenarios import BASE, Draws
from conformance.subject import with_adapters

if TYPE_CHECKING:
    from conformance.models import Model

_FEW = Draws(adapters=(2, 3), rows=(2, 3), saved="none")
# PEFT holds weights in float32: these are exact there.
_WEIGHTS = (0.5, -1.5, 2.5)
_DENSITY = 0.5
_TOLERANCE = 1e-9


def _any(model: Model) -> bool:
    return True


def _has_real_weights(model: Model) -> bool:
    """Whether no two weights of an adapter are alike, so that the largest are known."""
    return "integer" not in model.tags


@check("A2", draws=_FEW, applies=_any)
def a_concatenated_adapter_is_the_weighted_sum_of_its_parts(case: Case) -> Evidence:
    """Is the product that `add_weighted_adapter` makes by `cat`, of rsLoRA's adapters too, the weighted sum?"""
    model = _model(case, rslora=True)
    parts = _parts(case, model)
    _combine(model, list(parts), _WEIGHTS[: len(parts)], "sum", combination_type="cat")
    evidence = Evidence()
    for path, delta in deltas(model, "sum").items():
        evidence += _expect_equal(delta, _weighted(parts, path), [part[path] for part in parts.values()], path)
    return with_power(case, evidence)


@check("A2", draws=_FEW, applies=_any)
def an_adapter_combined_by_svd_is_the_nearest_to_the_weighted_sum(case: Case) -> Evidence:
    """Is what `svd` makes the weighted sum where the rank allows it, and else the nearest of that rank?"""
    model = _model(case, most=2)  # a rank beyond the layer's own has no singular values
    parts = _parts(case, model)
    full = sum(model.peft_config[name].r for name in parts)
    narrowest = min(min(delta.flatten(1).shape) for part in parts.values() for delta in part.values())
    if full > narrowest:
        raise Inapplicable(f"a layer has {narrowest} singular values, but should have {full}, the ranks together")
    weights = _WEIGHTS[: len(parts)]
    _combine(model, list(parts), weights, "all", combination_type="svd", svd_rank=full)
    _combine(model, list(parts), weights, "one", combination_type="svd", svd_rank=1)
    evidence, nearest = Evidence(), deltas(model, "one")
    for path, delta in deltas(model, "all").items():
        want = _weighted(parts, path)
        evidence += _expect_equal(delta, want, [part[path] for part in parts.values()], path)
        _expect_nearest(nearest[path].flatten(1), want.flatten(1), path)
    return with_power(case, evidence)


@check("A2", draws=_FEW, applies=_has_real_weights)
def adapters_combined_matrix_by_matrix_are_what_each_way_says(case: Case) -> Evidence:
    """Are A and B, each by itself, what `linear`, `magnitude_prune`, `ties` and `dare_linear` make of the parts'?"""
    model = _model(case, rank=2)
    names, evidence = list(case.scenario.names), Evidence()
    weights = [abs(weight) for weight in _WEIGHTS[: len(names)]]
    for way in ("linear", "magnitude_prune", "ties", "dare_linear"):
        density = {} if way == "linear" else {"density": _DENSITY}
        _combine(model, names, weights, way, combination_type=way, **density)
        for path, layer in adapter_layers(model, way):
            roots = [math.sqrt(weight * layer.scaling[name]) for name, weight in zip(names, weights)]
            for index, observed in enumerate(_matrices(layer, way)):
                parts = [_matrices(layer, name)[index] for name in names]
                evidence += _expect_combined(way, observed, parts, roots, f"{'AB'[index]} of {path} by {way}")
    return with_power(case, evidence)


@check("A2", draws=Draws(adapters=(1, 1), rows=(1, 2), mixed=False, saved="none"), applies=_any)
def a_negative_weight_takes_an_adapter_away(case: Case) -> Evidence:
    """Is an adapter weighted by a negative number its own product, times that number?"""
    model = _model(case)
    (name,) = case.scenario.names
    part = deltas(model, name)
    _combine(model, [name], [-1.0], "less", combination_type="linear")
    evidence = Evidence()
    for path, delta in deltas(model, "less").items():
        # PEFT takes square roots in float32.
        evidence += _expect_equal(delta, -part[path], [part[path]], path, 1e-6)
    return with_power(case, evidence)


@check("A2", "R1", draws=_FEW)
def a_combined_adapter_has_rows_of_its_own(case: Case) -> Evidence:
    """Is a row under a combined adapter, in a batch with its parts and the base, what that adapter alone gives?"""
    case.peft_model = model = _model(case)
    names = list(case.scenario.names)
    _combine(model, names, _WEIGHTS[: len(names)], "sum", combination_type="cat")
    rows = ["sum", *[name if name != names[0] else BASE for name in case.rows[1:]]]
    mixed, alone = case.mixed(rows), _alone(case, ["sum", *names, BASE])
    evidence = Evidence()
    for row, name in enumerate(rows):
        others = {other: case.oracle.rows_of(alone[other], row) for other in alone if other != name}
        want, where = case.oracle.rows_of(alone[name], row), f"row {row} under {name!r} of {rows}, {case.model.name}"
        evidence += compare_row(case.oracle.rows_of(mixed, row), want, others, case.tier, where)
    return evidence


def _model(case: Case, rslora: bool = False, rank: int = 0, most: int = 4) -> Any:
    """Return the scenario's model with all adapters on the same layers, as PEFT combines them layer by layer.

    Args:
        rslora: whether the first is of rank-stabilised LoRA.
        rank: of every adapter; 0 leaves each its own, up to `most`.
    """
    adapters = [
        replace(one, targets=case.model.targets, rslora=rslora and index == 0, rank=rank or min(one.rank, most))
        for index, one in enumerate(case.scenario.adapters)
    ]
    return with_adapters(case.model, adapters, case.scenario.seed, case.device)


def _parts(case: Case, model: Any) -> Dict[str, Dict[str, Any]]:
    return {name: deltas(model, name) for name in case.scenario.names}


def _combine(model: Any, names: Sequence[str], weights: Sequence[float], name: str, **how: Any) -> None:
    try:
        model.add_weighted_adapter(list(names), list(weights), name, **how)
    except (NotImplementedError, ValueError) as error:
        raise Inapplicable(f"PEFT does not combine these: {error}") from error


def _alone(case: Case, names: Sequence[str]) -> Dict[str, Any]:
    """Return the output of the whole batch under each adapter."""
    found = {}
    for name in names:
        if name == BASE:
            with case.peft_model.disable_adapter():
                found[name] = case.plain()
        else:
            case.peft_model.set_adapter(name)
            found[name] = case.plain()
    return found


def _weighted(parts: Dict[str, Dict[str, Any]], path: str) -> Any:
    return sum(weight * part[path] for weight, part in zip(_WEIGHTS, parts.values()))


def _matrices(layer: Any, name: str) -> Tuple[Any, Any]:
    """Return A and B of an adapter in a layer."""
    if name in layer.lora_A:
        return layer.lora_A[name].weight.detach(), layer.lora_B[name].weight.detach()
    return layer.lora_embedding_A[name].detach(), layer.lora_embedding_B[name].detach()


def _expect_equal(
    observed: Any, want: Any, parts: Sequence[Any], where: str, tolerance: float = _TOLERANCE
) -> Evidence:
    gap = relative_error(observed, want)
    if gap > tolerance:
        raise Mismatch(f"{where} of the combined adapter differs by {gap:.1e} from the weighted sum")
    return Evidence(gap, min(relative_error(part, want) for part in parts))


def _expect_nearest(observed: Any, total: Any, where: str) -> None:
    """Expect a matrix of rank 1 as far from `total` as the nearest is (Eckart and Young)."""
    import torch

    values, size = torch.linalg.svdvals(total), total.norm()
    distance, least = (observed - total).norm(), values[1:].norm()
    if float((distance - least).abs()) > _TOLERANCE * float(size):
        raise Mismatch(f"{where} is {distance:.3e} from the weighted sum, but the nearest of rank 1 is {least:.3e}")
    if float(torch.linalg.svdvals(observed)[1:].norm()) > _TOLERANCE * float(size):
        raise Mismatch(f"{where} has a rank beyond 1")


def _expect_combined(way: str, observed: Any, parts: Sequence[Any], roots: Sequence[float], where: str) -> Evidence:
    """Expect what `way` makes of one matrix of each part, by the papers: TIES (2306.01708), DARE (2311.03099)."""
    import torch

    roots = [float(torch.tensor(root)) for root in roots]  # in PEFT's precision
    if way == "dare_linear":
        return _expect_dropped(observed, [root * part / _DENSITY for root, part in zip(roots, parts)], where)
    kept = list(parts) if way == "linear" else [_largest(part) for part in parts]
    agree = [torch.ones_like(part) for part in parts]
    if way == "ties":
        majority = torch.where(torch.stack(kept).sum(0) >= 0, 1.0, -1.0)
        agree = [(part.sign() == majority).to(part) for part in kept]
    want: Any = sum(root * part * mask for root, part, mask in zip(roots, kept, agree))
    if way == "ties":
        want = want / torch.stack(agree).sum(0).clamp(min=1.0)
    gap = relative_error(observed, want)
    if gap > _TOLERANCE:
        raise Mismatch(f"{where} differs by {gap:.1e} from what that says")
    return Evidence(gap, min(relative_error(part, want) for part in parts))


def _expect_dropped(observed: Any, scaled: Sequence[Any], where: str) -> Evidence:
    """Expect every element to be the sum of some parts' elements, divided by the density, the rest dropped."""
    import torch

    sums: List[Any] = []
    for some in itertools.product((0.0, 1.0), repeat=len(scaled)):
        sums.append(torch.stack([keep * part for keep, part in zip(some, scaled)]).sum(0))
    gap = float((torch.stack(sums) - observed).abs().amin(0).max() / sums[-1].abs().max())
    if gap > _TOLERANCE:
        raise Mismatch(f"{where} has an element that is no sum of kept and dropped ones: {gap:.1e} off")
    return Evidence(gap)


def _largest(part: Any) -> Any:
    """Return the half of the elements that are largest; zero in the place of the others."""
    import torch

    flat, kept = part.flatten(), torch.zeros_like(part).flatten()
    where = flat.abs().topk(int(_DENSITY * flat.numel())).indices
    kept[where] = flat[where]
    return kept.view_as(part)
