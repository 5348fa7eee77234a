"""Chapter Engines: what a mixed batch is in other precisions than float64 (E4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, Tuple

from conformance.case import Case
from conformance.checks.check import check, has_rows
from conformance.compare import Evidence, Inapplicable, compare_in_low_precision, low_precision_error, separation_of
from conformance.models.precision import cast, default_dtype
from conformance.outputs import Tensors, tensors_of
from conformance.scenarios import BASE, Draws

if TYPE_CHECKING:
    from conformance.models import Model


def _is_continuous(model: Model) -> bool:
    """Whether a rounding step in the input is one in the output: not where a router picks experts by it."""
    return has_rows(model) and not {"experts", "integer"} & model.tags


@check("E4", draws=Draws(adapters=(1, 2), rows=(2, 3), saved="none"), applies=_is_continuous)
def float32_rows_are_as_exact_as_alone(case: Case) -> Evidence:
    """Is a row in float32 about as near to the float64 truth as that row run alone in float32?"""
    import torch

    return _expect_as_exact_as_alone(case, torch.float32)


def _tells_apart_in_bfloat16(model: Model) -> bool:
    return _is_continuous(model) and "rounds-coarsely" not in model.tags


@check("E4", draws=Draws(adapters=(1, 2), rows=(2, 3), saved="none"), applies=_tells_apart_in_bfloat16, quick=False)
def bfloat16_rows_are_as_exact_as_alone(case: Case) -> Evidence:
    """Is a row in bfloat16 about as near to the float64 truth as that row run alone in bfloat16?"""
    import torch

    return _expect_as_exact_as_alone(case, torch.bfloat16)


def _expect_as_exact_as_alone(case: Case, dtype: Any) -> Evidence:
    import torch

    names = list(case.rows)
    truth = {(name, row): case.oracle.expected(name, row) for name in {*names, BASE} for row in range(len(names))}
    inputs = cast(case.inputs, dtype)
    own = {(name, row): truth[name, row] for row, name in enumerate(names)}
    with default_dtype(dtype):
        alone = _errors_alone(case, inputs, dtype, own)
        case.peft_model.to(dtype)
        mixed = case.mixed(names, inputs)
    separation = min(
        separation_of(own[name, row], {other: truth[other, row] for other in {*names, BASE} if other != name})
        for name, row in own
    )
    return compare_in_low_precision(
        low_precision_error({key: case.oracle.rows_of(mixed, key[1]) for key in own}, own),
        alone,
        separation,
        torch.finfo(dtype).eps,
        f"{dtype}, {names}, {case.model.name}",
    )


def _errors_alone(case: Case, inputs: Any, dtype: Any, own: Dict[Tuple[str, int], Tensors]) -> float:
    """Return the error of the rows under their adapters alone in `dtype`: in the whole batch, or by themselves.

    The worse of the two, since the kernels of torch round otherwise for one row than for several.

    Raises:
        Inapplicable: the model does not run in `dtype`.
    """
    import torch

    whole, single = {}, {}
    try:
        outputs = {}
        for name, row in own:
            model = case.oracle.model_of(name).to(dtype)
            with torch.no_grad():
                if name not in outputs:
                    outputs[name] = model(**inputs)
                whole[name, row] = case.oracle.rows_of(outputs[name], row)
                single[name, row] = tensors_of(model(**{key: value[row : row + 1] for key, value in inputs.items()}))
    except (RuntimeError, NotImplementedError) as error:
        raise Inapplicable(f"the model does not run in {dtype}: {error}") from error
    return max(low_precision_error(whole, own), low_precision_error(single, own))
