"""Chapter State: a call leaves nothing behind, whether it succeeds or fails, and threads do not meet (S1-S6)."""

from __future__ import annotations

import copy
import threading
from typing import Any, Dict, Iterator, List, Sequence

from conformance.case import Case, raised_by
from conformance.checks.check import check
from conformance.compare import Evidence, Inapplicable, Mismatch, relative_error
from conformance.footprint import Moving, expect_moved_once, expect_unchanged, footprint, moved_by
from conformance.outputs import tensors_of
from conformance.scenarios import Draws
from conformance.shim_switch import refusals, reinstalling_faults

_FEW = Draws(adapters=(1, 2), rows=(2, 3), saved="none")


class _Planted(Exception):
    """The failure that a check plants in a layer."""


@check("S1", draws=_FEW, applies=lambda model: True)
def failure_leaves_no_trace(case: Case) -> Evidence:
    """Does a call that raises in a layer, by an error or an interrupt, leave the model as it was, and come out?"""
    layers, before_output = _layers_that_run(case), tensors_of(case.plain())
    moving = moved_by(case.peft_model, case.plain)
    unserved = raised_by(case.mixed)
    for planted in (_Planted, KeyboardInterrupt):
        for layer in (layers[0], layers[-1]):
            for error in _raised_in(layer, planted, case, unserved is None, moving):
                if not unserved and not isinstance(error, planted):
                    raise Mismatch(f"{planted.__name__} was raised in a layer, but {error!r} came out of the call")
    if unserved:
        raise unserved  # of a call that fails anyway no failure in its midst is shown
    if not moving:
        _expect_same(before_output, tensors_of(case.plain()), "a plain call after a failed one")
    return Evidence()


@check("S1", draws=_FEW, applies=lambda model: True)
def a_refused_call_leaves_no_trace(case: Case) -> Evidence:
    """Does a call with a wrong number of names, or an unknown name, leave the model as it was?"""
    before_output = tensors_of(case.plain())
    moving = moved_by(case.peft_model, case.plain)
    for names in ([*case.rows, case.rows[0]], ["nobody", *case.rows[1:]]):
        before = footprint(case.peft_model)
        error = raised_by(lambda names=names: case.mixed(names))  # type: ignore[misc]
        expect_unchanged(before, footprint(case.peft_model), f"a call with adapter_names={names}", moving)
        if error is None:
            raise Mismatch(f"a call with adapter_names={names} was answered, but should be refused")
    if not moving:
        _expect_same(before_output, tensors_of(case.plain()), "a plain call after a refused one")
    return Evidence()


@check("S2", draws=_FEW)
def success_leaves_no_trace(case: Case) -> Evidence:
    """Does a mixed call leave the model, the names and the inputs as they were, and what a plain call moves, once?"""
    before_output = tensors_of(case.plain())
    names = list(case.rows)
    inputs = {name: value.clone() for name, value in case.inputs.items()}
    moving = moved_by(case.peft_model, case.plain)
    before, steps = footprint(case.peft_model), _plain_steps(case) if moving else ()
    case.mixed(names)
    after = footprint(case.peft_model)
    expect_unchanged(before, after, "a mixed call", moving)
    if steps:
        expect_moved_once(steps[0], steps[1], after, "a mixed call")
    if names != list(case.rows):
        raise Mismatch(f"the caller's list of names is {names} after the call, but should be {list(case.rows)}")
    _expect_same(inputs, case.inputs, "the inputs of a mixed call")
    if not moving:
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


def _layers_that_run(case: Case) -> List[Any]:
    """Return the adapted layers whose base layer a plain call runs, in their order.

    Raises:
        Inapplicable: it runs none.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    ran: List[Any] = []
    layers = [module for module in case.peft_model.modules() if isinstance(module, BaseTunerLayer)]
    handles = [
        layer.get_base_layer().register_forward_pre_hook(lambda *_, layer=layer: ran.append(layer)) for layer in layers
    ]
    try:
        case.plain()
    finally:
        for handle in handles:
            handle.remove()
    if not ran:
        raise Inapplicable("the model runs none of its adapted layers")
    return ran


def _plain_steps(case: Case) -> Sequence[Dict[str, Any]]:
    """Return the footprints of a copy of the model after one plain call, and after two."""
    model, twin = case.peft_model, copy.deepcopy(case.peft_model)
    steps = []
    case.peft_model = twin
    try:
        for _ in range(2):
            case.plain()
            steps.append(footprint(twin))
    finally:
        case.peft_model = model
    return steps


def _raised_in(layer: Any, planted: Any, case: Case, served: bool, moving: Moving) -> Iterator[BaseException]:
    """Yield what comes out of mixed calls whose base layer raises `planted`, at its first call in them and its last.

    Raises:
        Mismatch: the call was answered, or left a trace.
    """
    calls: List[int] = []
    fatal = 0

    def fail(module: Any, args: Any) -> None:
        calls.append(1)
        if len(calls) == fatal:
            raise planted

    handle = layer.get_base_layer().register_forward_pre_hook(fail)
    try:
        if served:
            case.mixed()  # with the hook in place already, on which the way that a call takes may hang
            calls.clear()
            case.mixed()
        for number in sorted({1, len(calls)} if served else {1}):
            fatal = number
            calls.clear()
            before = footprint(case.peft_model)
            error = raised_by(case.mixed, BaseException)
            after = footprint(case.peft_model)
            expect_unchanged(before, after, f"a call in which {planted.__name__} was raised", moving)
            if error is None:
                raise Mismatch(f"the call was answered though {type(layer).__name__} raised in it")
            yield error
    finally:
        handle.remove()


def _expect_same(before: Dict[str, Any], after: Dict[str, Any], what: str) -> None:
    for path, want in before.items():
        if relative_error(after[path], want) > 0:
            raise Mismatch(f"{what} gives another {path!r} than before")
