"""Chapter State: what is saved, pickled or copied, and loaded again, gives the same rows (S5, S7)."""

from __future__ import annotations

import copy
import pickle
import tempfile
import warnings
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

from conformance.case import Case
from conformance.checks.check import check, saves_modules
from conformance.compare import Evidence, Mismatch
from conformance.footprint import expect_unchanged, footprint
from conformance.scenarios import BASE, Draws
from conformance.subject import base_model, with_adapters


@check("S5", draws=Draws(adapters=(2, 3), rows=(2, 3), saved="differ"), applies=saves_modules)
def adapters_saved_and_loaded_again_have_the_same_rows(case: Case) -> Evidence:
    """Do adapters give the same rows, mixed, saved from one model and loaded into another, saved modules included?"""
    names = [case.scenario.names[0], case.scenario.names[-1], BASE][: len(case.rows)]
    with tempfile.TemporaryDirectory() as folder:
        case.mixed(names)
        case.peft_model.save_pretrained(folder, save_embedding_layers=False)
        case.peft_model = _loaded(case, Path(folder))
    return case.expect_rows(case.mixed(names), names) + case.expect_rows(case.mixed(), case.rows)


def _loaded(case: Case, folder: Path) -> Any:
    """Return a new base model with the adapters that were saved in `folder`, loaded in the reverse order."""
    import peft

    last, *rest = reversed(case.scenario.names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.PeftModel.from_pretrained(base_model(case.model, case.device), str(folder / last), last)
        for name in rest:
            model.load_adapter(str(folder / name), name)
    model.set_adapter(case.scenario.active)
    return model.double().eval()


@check("S7", draws=Draws(adapters=(2, 2), rows=(2, 3), saved="none"))
def copies_made_before_during_and_after_a_call_are_right(case: Case) -> Evidence:
    """Is a model that is pickled, copied or read from its `state_dict`, in a mixed call too, the model as it was?"""
    model, evidence = case.peft_model, Evidence()
    before = _state(model)
    copies: Dict[str, List[Any]] = {when: [] for when in ("before", "during", "after")}
    ways = _ways(case)
    copies["before"] = [copied(model) for copied in ways]
    with _at_the_first_layer(model, lambda: copies["during"].extend(copied(model) for copied in ways)):
        evidence += case.expect_rows(case.mixed(), case.rows)
    copies["after"] = [copied(model) for copied in ways]
    for when, made in copies.items():
        if len(made) != len(ways):
            raise Mismatch(f"{len(made)} copies were made {when} the call, but should be {len(ways)}")
        for one in made:
            expect_unchanged(before, _state(one), f"a copy made {when} a mixed call")
    for case.peft_model in (copies["during"][0], copies["after"][1]):
        evidence += case.expect_rows(case.mixed(), case.rows)
    return evidence


def _ways(case: Case) -> Tuple[Callable[[Any], Any], ...]:
    """Return the ways to copy a model; another first for each seed."""
    scenario = replace(case.scenario, seed=case.scenario.seed + 1)
    other = with_adapters(case.model, scenario.adapters, scenario.seed, case.device, scenario.active)
    ways = (_pickled, copy.deepcopy, lambda model: _read(other, model))
    first = case.scenario.seed % len(ways)
    return ways[first:] + ways[:first]


def _pickled(model: Any) -> Any:
    return pickle.loads(pickle.dumps(model))


def _read(other: Any, model: Any) -> Any:
    """Return a copy of `other`, which has other weights, after it has read the `state_dict` of `model`."""
    reader = copy.deepcopy(other)
    reader.load_state_dict(model.state_dict())
    return reader


def _state(model: Any) -> Dict[str, Any]:
    """Return the footprint of a model, without torch's generators and the methods that are bound to it."""
    found = footprint(model).items()
    return {name: value for name, value in found if "random generator" not in name and not callable(value)}


@contextmanager
def _at_the_first_layer(model: Any, then: Callable[[], None]) -> Iterator[None]:
    """Call `then` once in the block, when a module inside of `model` is first run."""
    from torch.nn.modules.module import register_module_forward_pre_hook

    inside = {id(module) for module in model.modules() if module is not model}
    met: List[Any] = []

    # For all modules, and so on none of them: a hook on the model would be pickled, and copied, with it.
    def hook(module: Any, args: Any) -> None:
        if id(module) in inside and not met:
            met.append(module)
            then()

    handle = register_module_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()
