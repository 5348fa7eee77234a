"""Chapter Rows: a sample that a model moves to another's place, among its inputs or its outputs, is not answered."""

from __future__ import annotations

import functools
from typing import Any, Collection, Sequence, Set

from conformance.case import Case, raised_by
from conformance.checks.check import check
from conformance.compare import Evidence
from conformance.outputs import Tensors, tensors_of
from conformance.scenarios import BASE, Draws
from conformance.shim_switch import refusals


@check("R8", draws=Draws(adapters=(3, 3), rows=(4, 4), saved="none"))
def samples_in_another_order_are_refused(case: Case) -> Evidence:
    """Is a model refused that reverses its samples, or moves each to the next one's place of a time-major output?"""
    base = case.peft_model.get_base_model()
    forward = base.forward
    moved: Set[str] = set()

    @functools.wraps(forward)
    def reversing(**inputs: Any) -> Any:
        return forward(**{name: value.flip(0) if name in case.inputs else value for name, value in inputs.items()})

    @functools.wraps(forward)
    def moving(**inputs: Any) -> Tensors:
        found = tensors_of(forward(**inputs))
        moved.update(path for path, t in found.items() if t.dim() > 1 and len(t) == len(case.rows))
        return {path: _time_major(t.roll(1, 0)) if path in moved else t for path, t in found.items()}

    one, two, three = case.scenario.names
    base.forward = reversing
    evidence = _refused_or_right(case, [one, two, BASE, three]) + _refused_or_right(case, [one, two, two, one])
    base.forward = moving
    return evidence + _refused_or_right(case, [one, two, BASE, three], moved)


def _refused_or_right(case: Case, names: Sequence[str], time_major: Collection[str] = ()) -> Evidence:
    """Compare each row of a mixed call with itself alone, if the call is answered."""
    error = raised_by(functools.partial(case.mixed, names))
    if error is None:
        return case.expect_rows(_rows_first(case.mixed(names), time_major), names)
    if not isinstance(error, refusals()):
        raise error
    return Evidence()


def _rows_first(output: Any, time_major: Collection[str]) -> Any:
    """Return an output with its rows along the first dimension; it is a mapping of paths where any has them not."""
    return {p: _time_major(t) if p in time_major else t for p, t in output.items()} if time_major else output


def _time_major(tensor: Any) -> Any:
    """Return a tensor with its rows along the second dimension, or one that has them there with the rows first."""
    return tensor.transpose(0, 1)
