"""Chapter State: a call leaves nothing behind, whether it succeeds or fails, and threads do not meet (S1-S6)."""

from __future__ import annotations

import threading
from typing import Any, Dict, List

from conformance.case import Case, raised_by
from conformance.checks.check import check
from conformance.compare import Evidence, Mismatch, relative_error
from conformance.footprint import expect_unchanged, footprint
from conformance.outputs import tensors_of
from conformance.scenarios import Draws
from conformance.shim_switch import refusals, reinstalling_faults

_FEW = Draws(adapters=(1, 2), rows=(2, 3), saved="none")


class _Planted(Exception):
    """The failure that a check plants in a layer."""


@check("S1", draws=_FEW, applies=lambda model: True)
def failure_leaves_no_trace(case: Case) -> Evidence:
    """Does a call that raises in a layer, by an error or an interrupt, leave the model as it was?"""
    layers = _adapted_layers(case.peft_model)
    before_output = tensors_of(case.plain())
    case_can_run = raised_by(case.mixed) is None
    for planted in (_Planted, KeyboardInterrupt):
        for layer in (layers[0], layers[-1]):
            for last in (False, True) if case_can_run else (False,):
                before = footprint(case.peft_model)
                error = _raised_with_failing_layer(case, layer, planted, last)
                if error is None:
                    raise Mismatch(f"the call was answered though {type(layer).__name__} raised in it")
                expect_unchanged(before, footprint(case.peft_model), f"a call in which {planted.__name__} was raised")
    _expect_same(before_output, tensors_of(case.plain()), "a plain call after a failed one")
    return Evidence()


@check("S1", draws=_FEW, applies=lambda model: True)
def a_refused_call_leaves_no_trace(case: Case) -> Evidence:
    """Does a call with a wrong number of names, or an unknown name, leave the model as it was?"""
    before_output = tensors_of(case.plain())
    for names in ([*case.rows, case.rows[0]], ["nobody", *case.rows[1:]]):
        before = footprint(case.peft_model)
        raised_by(lambda names=names: case.mixed(names))  # type: ignore[misc]
        expect_unchanged(before, footprint(case.peft_model), f"a call with adapter_names={names}")
    _expect_same(before_output, tensors_of(case.plain()), "a plain call after a refused one")
    return Evidence()


@check("S2", draws=_FEW)
def success_leaves_no_trace(case: Case) -> Evidence:
    """Does a mixed call leave the model, the caller's names and the inputs as they were?"""
    before_output = tensors_of(case.plain())
    names = list(case.rows)
    inputs = {name: value.clone() for name, value in case.inputs.items()}
    before = footprint(case.peft_model)
    case.mixed(names)
    expect_unchanged(before, footprint(case.peft_model), "a mixed call")
    if names != list(case.rows):
        raise Mismatch(f"the caller's list of names is {names} after the call, but should be {list(case.rows)}")
    _expect_same(inputs, case.inputs, "the inputs of a mixed call")
    _expect_same(before_output, tensors_of(case.plain()), "a plain call after a mixed one")
    return Evidence()


@check("S3", draws=Draws(adapters=(2, 2), rows=(2, 3), saved="none"))
def threads_do_not_affect_each_other(case: Case) -> Evidence:
    """Do two threads with different names, and one without, each get their own answer on one model?"""
    rows = len(case.rows)
    first, second = case.scenario.names[:2]
    wanted: List[List[str]] = [
        [first if row % 2 else second for row in range(rows)],
        [second if row % 2 else first for row in range(rows)],
    ]
    plain = tensors_of(case.plain())
    faults: List[BaseException] = []
    start = threading.Barrier(len(wanted) + 1)

    def run(names: Any) -> None:
        try:
            start.wait()
            for _ in range(3):
                if names is None:
                    _expect_same(plain, tensors_of(case.plain()), "a plain call beside mixed ones")
                else:
                    case.expect_rows(case.mixed(names), names)
        except BaseException as error:
            faults.append(error)

    for names in wanted:
        case.expect_rows(case.mixed(names), names)  # the oracle's answers are made before the race
    threads = [threading.Thread(target=run, args=(names,)) for names in [*wanted, None]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults and isinstance(faults[0], refusals()):
        raise Mismatch(f"a call that is served alone was refused beside others: {faults[0]}") from faults[0]
    if faults:
        raise faults[0]
    return Evidence()


@check("S6", draws=_FEW)
def reinstalling_changes_nothing(case: Case) -> Evidence:
    """Is installing the shim twice installing it once, and does uninstalling restore the very objects?"""
    faults = reinstalling_faults()
    if faults:
        raise Mismatch("; ".join(faults[:5]))
    before = footprint(case.peft_model)
    if reinstalling_faults():
        raise Mismatch("a second round of installing and uninstalling does not end as the first")
    expect_unchanged(before, footprint(case.peft_model), "installing and uninstalling")
    return Evidence()


def _adapted_layers(model: Any) -> List[Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]


def _raised_with_failing_layer(case: Case, layer: Any, planted: Any, last: bool) -> Any:
    """Run the mixed call with a base layer that raises at its first call, or at its last."""
    base = layer.get_base_layer()
    calls: List[int] = []

    def fail(module: Any, args: Any) -> None:
        calls.append(1)
        if len(calls) == fatal:
            raise planted

    fatal = 0 if last else 1
    handle = base.register_forward_pre_hook(fail)
    try:
        if last:
            case.mixed()
            fatal = len(calls)
            calls.clear()
        return raised_by(case.mixed)
    finally:
        handle.remove()


def _expect_same(before: Dict[str, Any], after: Dict[str, Any], what: str) -> None:
    for path, want in before.items():
        if relative_error(after[path], want) > 0:
            raise Mismatch(f"{what} gives another {path!r} than before")
