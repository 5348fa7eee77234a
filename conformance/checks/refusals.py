"""Chapter Refusals: what cannot be exact is refused with a message that helps, and nothing is ignored."""

from __future__ import annotations

import re
from typing import Any, Callable, Sequence

from conformance.case import Case, raised_by, reordered
from conformance.checks.check import check
from conformance.compare import FLOAT64, Evidence, Inapplicable, Mismatch, Vacuous, relative_error
from conformance.outputs import tensors_of
from conformance.scenarios import Draws
from conformance.shim_switch import refusals

_FEW = Draws(adapters=(1, 2), rows=(2, 3), saved="none")


@check("F1", draws=_FEW, applies=lambda model: True)
def an_unknown_name_is_refused(case: Case) -> Evidence:
    """Is a name that was never loaded refused, by an error that names it?"""
    names = ["nobody", *case.rows[1:]]
    return _expect_refusal(lambda: case.mixed(names), ["nobody"])


@check("F1", draws=_FEW, applies=lambda model: True)
def an_unknown_name_is_told_those_loaded(case: Case) -> Evidence:
    """Does the error for an unknown name list the adapters that are loaded?"""
    names = ["nobody", *case.rows[1:]]
    return _expect_refusal(lambda: case.mixed(names), case.scenario.names)


@check("R8", "F3", draws=Draws(adapters=(2, 2), rows=(2, 3), saved="none"))
def a_layer_of_its_own_class_that_mixes_samples_is_refused_by_name(case: Case) -> Evidence:
    """Is a linear layer whose own forward makes a row of all rows refused by its class, or each row as by itself?"""
    import torch

    class LessTheMean(torch.nn.Linear):
        def forward(self, x: Any) -> Any:
            return super().forward(x - x.mean())

    adapted = [getattr(module, "base_layer", None) for module in case.peft_model.modules()]
    layers = [layer for layer in adapted if type(layer) is torch.nn.Linear]
    if not layers:
        raise Inapplicable("no adapted layer is a torch.nn.Linear")
    for layer in layers:
        layer.__class__ = LessTheMean
    if raised_by(case.mixed) is not None:
        return _expect_refusal(case.mixed, ["LessTheMean"])
    output = case.mixed()
    for row, name in enumerate(case.rows):  # what all samples share, as positions are, has no rows to mix
        alone = tensors_of(case.mixed([name], reordered(case.inputs, [row])))
        for path, observed in case.oracle.rows_of(output, row).items():
            error = relative_error(observed, alone[path])
            if error > FLOAT64.tolerance:
                raise Mismatch(f"output {path!r} of row {row} differs by {error:.1e} from that row by itself")
    return Evidence()


@check("F1", draws=Draws(adapters=(2, 3), rows=(2, 3), saved="none"), applies=lambda model: True)
def a_deleted_name_is_refused(case: Case) -> Evidence:
    """Is a deleted adapter refused by name, though the same call was served before, and do the others stay right?"""
    deleted, *left = case.scenario.names
    names = [deleted, *case.rows[1:]]
    raised_by(lambda: case.mixed(names))  # whatever is kept of a call is kept
    case.peft_model.set_adapter(left[0])
    case.peft_model.delete_adapter(deleted)
    _expect_refusal(lambda: case.mixed(names), [deleted])
    if not case.model.has_rows:
        return Evidence()
    names = [left[row % len(left)] for row in range(len(case.rows))]
    return case.expect_rows(case.mixed(names), names, power=False)


@check("F2", draws=_FEW, applies=lambda model: True)
def a_wrong_number_of_names_is_refused_with_both_numbers(case: Case) -> Evidence:
    """Is a list of names that is too long or too short refused, with both numbers?"""
    rows = len(case.rows)
    for names in ([*case.rows, case.rows[0]], list(case.rows[:-1])):
        _expect_refusal(lambda names=names: case.mixed(names), [str(len(names)), str(rows)])  # type: ignore[misc]
    return Evidence()


@check("F4", draws=_FEW, applies=lambda model: True)
def merged_adapters_are_refused(case: Case) -> Evidence:
    """Is a mixed call refused while an adapter is merged into the base weights, though it was served before?"""
    raised_by(case.mixed)  # whatever is kept of a call is kept
    case.peft_model.merge_adapter()
    return _expect_refusal(case.mixed, ["merged"])


@check("F5", draws=_FEW)
def the_names_are_used_whatever_is_active(case: Case) -> Evidence:
    """Are the names used whatever adapter is active, also while the adapters are disabled?"""
    evidence = case.expect_rows(case.mixed(), case.rows)
    with case.peft_model.disable_adapter():
        evidence += case.expect_rows(case.mixed(), case.rows)
    return evidence


@check("F5", draws=_FEW)
def no_tuner_ignores_the_names(case: Case) -> Evidence:
    """Does a tuner other than LoRA use the names, or refuse them, but never ignore them?"""
    case.peft_model = _with_ia3_adapters(case)
    names = (["ann", "ben"] * len(case.rows))[: len(case.rows)]
    error = raised_by(lambda: case.mixed(names))
    if isinstance(error, refusals()):
        raise error  # for whatever reason: the names were not ignored
    if error is not None:
        return _expect_refusal(lambda: case.mixed(names), ["ann", "IA3"])
    output = case.mixed(names)
    separation = float("inf")
    for name in ("ann", "ben"):
        case.peft_model.set_adapter(name)
        separation = min(separation, _expect_own_rows(case, output, case.plain(), names, name))
    if separation < FLOAT64.least_separation:
        raise Vacuous(f"the two adapters differ by {separation:.1e} on a row only")
    return Evidence(0.0, separation)


def _with_ia3_adapters(case: Case) -> Any:
    """Return the model with two (IA)^3 adapters on the first target that is a linear layer."""
    import peft
    import torch

    from conformance.models.every.targets import linear_layers
    from conformance.subject import base_model

    base = base_model(case.model, case.device)
    linear = linear_layers(base)
    target = next((t for t in case.model.targets if any(name.endswith(t) for name in linear)), None)
    if target is None:
        raise Inapplicable("no target is a linear layer, which (IA)^3 could scale")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(case.scenario.seed)
        config = peft.IA3Config(target_modules=[target], feedforward_modules=[], init_ia3_weights=False)
        wrapped = peft.get_peft_model(base, config, adapter_name="ann")
        wrapped.add_adapter("ben", config)
    return wrapped.double().eval()


def _expect_own_rows(case: Case, mixed: Any, alone: Any, names: Sequence[str], name: str) -> float:
    """Compare the rows of `name` with those of the whole batch under it; return how near the other rows come."""
    nearest = float("inf")
    for row in range(len(case.rows)):
        observed, want = case.oracle.rows_of(mixed, row), case.oracle.rows_of(alone, row)
        gap = max(relative_error(observed[path], want[path]) for path in want)
        if names[row] != name:
            nearest = min(nearest, gap)
        elif gap > FLOAT64.tolerance:
            raise Mismatch(f"row {row} under {name!r} (IA3) differs by {gap:.1e}: the names were ignored or mixed up")
    return nearest


def _expect_refusal(function: Callable[[], Any], words: Sequence[str]) -> Evidence:
    """Raise Mismatch unless `function` raises an error that a reader can act on: it has all of `words`, each whole."""
    error = raised_by(function)
    if error is None:
        raise Mismatch(f"the call was answered, but should be refused with an error that says {list(words)}")
    missing = [word for word in words if not re.search(rf"(?<!\w){re.escape(word)}(?!\w)", str(error))]
    if not isinstance(error, (ValueError, TypeError)) or missing:
        raise Mismatch(
            f"raised {type(error).__name__}: {error}, but should be a ValueError that says {missing or list(words)}"
        )
    return Evidence()
