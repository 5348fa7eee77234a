"""Chapter Layers: adapters that transformers put into a model itself, without a PEFT model around it (L5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from conformance.case import Case, raised_by
from conformance.checks.check import check, has_rows
from conformance.checks.generation import expect_own_tokens
from conformance.checks.heads import expect_whole_batch
from conformance.compare import Evidence, Mismatch
from conformance.scenarios import BASE, Draws
from conformance.subject import base_model, with_own_adapters

if TYPE_CHECKING:
    from conformance.models import Model


def _is_of_transformers(model: Model) -> bool:
    return has_rows(model) and bool(model.architecture)


def _generates(model: Model) -> bool:
    return _is_of_transformers(model) and "generates" in model.tags


def _saves(model: Model) -> bool:
    return _is_of_transformers(model) and bool(model.saved)


@check("L5", draws=Draws(adapters=(2, 3), rows=(2, 4), saved="none"), applies=_is_of_transformers)
def a_models_own_adapters_give_each_row_its_own_run(case: Case) -> Evidence:
    """Is every row right where transformers added the adapters, also while they are disabled?"""
    case.peft_model = own = own_model(case)
    evidence = case.expect_rows(case.mixed(), case.rows)
    own.disable_adapters()
    return evidence + case.expect_rows(case.mixed(), case.rows)


@check("L5", draws=Draws(adapters=(2, 3), rows=(2, 4), saved="none"), applies=_generates)
def a_models_own_adapters_generate_each_rows_own_tokens(case: Case) -> Evidence:
    """Are the tokens of each row its own where transformers added the adapters, also by beams?"""
    case.peft_model = own_model(case)
    return expect_own_tokens(case, {}) + expect_own_tokens(case, {"num_beams": 3})


@check("L5", "F5", draws=Draws(adapters=(1, 2), rows=(2, 3), saved="none"), applies=_is_of_transformers)
def a_model_without_adapters_refuses_names(case: Case) -> Evidence:
    """Is a model to which no adapter was added told so, and are the names never ignored?"""
    case.peft_model = base_model(case.model, case.device)
    error = raised_by(case.mixed)
    if not isinstance(error, (TypeError, ValueError)) or "adapter_names" not in str(error):
        raise Mismatch(f"raised {error!r}, but should raise an error that says adapter_names")
    return Evidence()


@check("L5", "H1", "H3", draws=Draws(adapters=(2, 3), rows=(2, 3), saved="differ"), applies=_saves)
def a_models_own_adapters_stay_right_after_switching_and_deleting(case: Case) -> Evidence:
    """Is each of a model's own adapters right with its saved modules: switched to, disabled, mixed, deleted?"""
    case.peft_model = own = own_model(case)
    evidence = Evidence()
    for name in [*case.scenario.names, *reversed(case.scenario.names)]:
        own.set_adapter(name)
        evidence += expect_whole_batch(case, name, f"after set_adapter({name!r})")
        own.disable_adapters()
        evidence += expect_whole_batch(case, BASE, f"while disabled, with {name!r} active")
        own.enable_adapters()
        evidence += expect_whole_batch(case, name, f"after enable_adapters(), with {name!r} active")
    evidence += case.expect_rows(case.mixed(), case.rows)
    if hasattr(own, "delete_adapter"):
        deleted = case.scenario.names[0]  # the active one
        own.delete_adapter(deleted)
        evidence += expect_whole_batch(
            case, own.active_adapters()[0], f"after {deleted!r}, the active one, was deleted"
        )
    return evidence


def own_model(case: Case) -> Any:
    """Return the model of the scenario with every adapter in the model itself."""
    scenario = case.scenario
    return with_own_adapters(case.model, scenario.adapters, scenario.seed, case.device, scenario.active)
