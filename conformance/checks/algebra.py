"""Chapter Algebra: merged is unmerged, W x and B(A x) add up (A1, A3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, Tuple

from conformance.case import Case
from conformance.checks.check import check
from conformance.compare import Evidence, Inapplicable, Mismatch, Vacuous, compare_row, relative_error
from conformance.outputs import tensors_of
from conformance.scenarios import BASE, Draws

if TYPE_CHECKING:
    from conformance.models import Model

_FEW = Draws(adapters=(2, 3), rows=(2, 3), saved="none")


def _any(model: Model) -> bool:
    return True


@check("A1", draws=_FEW, applies=_any)
def merging_gives_the_unmerged_outputs_and_unmerging_restores(case: Case) -> Evidence:
    """Does a merged adapter give what it gives unmerged, and are the weights those of before after unmerging?"""
    model, evidence = case.peft_model, Evidence()
    before = {path: weight.detach().clone() for path, weight in model.named_parameters()}
    for name in case.scenario.names:
        model.set_adapter(name)
        others = {other: case.oracle.run(other) for other in (*case.scenario.names, BASE) if other != name}
        for state, change in (("merged", model.merge_adapter), ("unmerged again", model.unmerge_adapter)):
            change()
            where = f"{name!r} {state}, {case.model.name}"
            evidence += compare_row(tensors_of(case.plain()), case.oracle.run(name), others, case.tier, where)
        for path, weight in model.named_parameters():
            error = relative_error(weight.detach(), before[path])
            if error > case.tier.tolerance:
                raise Mismatch(f"{path} is {error:.1e} from what it was, but should be restored [{name!r} unmerged]")
    return evidence


@check("A3", draws=_FEW, applies=_any)
def the_base_and_the_adapters_term_add_up(case: Case) -> Evidence:
    """Is what an adapted linear layer gives W x plus scaling * B(A x), each taken by itself?"""
    import torch

    model, evidence = case.peft_model, Evidence()
    for name in case.scenario.names:
        model.set_adapter(name)
        for path, layer, x, y in _calls_of_linear_layers(case, name):
            with torch.no_grad():
                base = layer.get_base_layer()(x)
                term = layer.lora_B[name](layer.lora_A[name](x)) * layer.scaling[name]
            evidence += Evidence(relative_error(base + term, y), float(term.abs().max() / y.abs().max()))
            if evidence.error > case.tier.tolerance:
                raise Mismatch(f"W x + s B(A x) differs by {evidence.error:.1e} from {path} under {name!r}")
    if evidence.separation == float("inf"):
        raise Inapplicable("no adapter of this scenario lies on a linear layer")
    return with_power(case, evidence)


def with_power(case: Case, evidence: Evidence) -> Evidence:
    """Return the evidence; raise `Vacuous` where the parts are too alike for it to count."""
    if evidence.separation < max(case.tier.least_separation, 1e-6):
        raise Vacuous(f"the parts differ by {evidence.separation:.1e} only")
    return evidence


def deltas(model: Any, name: str) -> Dict[str, Any]:
    """Return what an adapter adds to the weight of every layer that it lies on."""
    import torch

    with torch.no_grad():
        return {path: layer.get_delta_weight(name) for path, layer in adapter_layers(model, name)}


def adapter_layers(model: Any, name: str) -> List[Tuple[str, Any]]:
    """Return (path, layer) of every layer that an adapter lies on."""
    from peft.tuners.lora import LoraLayer

    return [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, LoraLayer) and (name in module.lora_A or name in module.lora_embedding_A)
    ]


def _calls_of_linear_layers(case: Case, name: str) -> List[Tuple[str, Any, Any, Any]]:
    """Return (path, layer, input, output) of the linear layers that `name` lies on, in a plain call."""
    import torch

    calls: List[Tuple[str, Any, Any, Any]] = []
    handles = []
    for path, layer in adapter_layers(case.peft_model, name):
        if isinstance(layer.get_base_layer(), torch.nn.Linear):

            def note(module: Any, args: Any, output: Any, path: str = path) -> None:
                if output.numel():  # an expert may get no token
                    calls.append((path, module, args[0], output))

            handles.append(layer.register_forward_hook(note))
    try:
        case.plain()
    finally:
        for handle in handles:
            handle.remove()
    return calls
