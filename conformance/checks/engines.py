"""Chapter Engines: a mixed batch through torch.compile (E1), and in other precisions than float64 (E4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, Tuple

from conformance.case import Case
from conformance.checks.check import check, has_rows
from conformance.compare import (
    Evidence,
    Inapplicable,
    Mismatch,
    compare_in_low_precision,
    low_precision_error,
    separation_of,
)
from conformance.models.precision import cast, default_dtype
from conformance.outputs import Tensors, tensors_of
from conformance.scenarios import BASE, Draws

if TYPE_CHECKING:
    from conformance.models import Model

FEWEST_NUMBERS = 32
"""Outputs of fewer numbers, in all rows of a batch, have no error in low precision that two runs agree on."""


def _is_compiled_here(model: Model) -> bool:
    """Whether the check compiles the model: a few that dynamo takes whole, since it costs seconds."""
    return has_rows(model) and bool({"causal-lm", "integer"} & model.tags) and "experts" not in model.tags


@check("E1", draws=Draws(adapters=(1, 2), rows=(2, 3), saved="none"), applies=_is_compiled_here, quick=False)
def a_compiled_model_gives_each_row_its_own_run_by_one_graph(case: Case) -> Evidence:
    """Are rows right through torch.compile, after a plain call too, by one full graph for every list of names?"""
    import torch

    if not hasattr(torch, "compiler") or not hasattr(torch.compiler, "set_stance"):
        raise Inapplicable("dynamo guards no function modes before torch 2.6")
    graphs: List[Any] = []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph

    names = list(case.rows)
    torch._dynamo.reset()
    try:
        base = case.peft_model.get_base_model()
        base.forward = torch.compile(base.forward, backend=backend, fullgraph=True)
        _compile_for_plain_calls(case)
        evidence, made = Evidence(), [len(graphs)]
        for some in (names, names[::-1], [names[0]] * len(names)):
            evidence += case.expect_rows(case.mixed(some), some)
            made.append(len(graphs))
    finally:
        torch._dynamo.reset()
    if made != [made[0], made[0] + 1, made[0] + 1, made[0] + 1]:
        raise Mismatch(f"after a plain call and three lists of names there were {made} graphs, but should be one more")
    return evidence


def _compile_for_plain_calls(case: Case) -> None:
    """Run the compiled model without names, so that there is a graph that must not answer.

    Raises:
        Inapplicable: dynamo makes no full graph of this model.
    """
    import torch

    try:
        case.plain()
    except torch._dynamo.exc.Unsupported as error:
        raise Inapplicable(f"dynamo makes no full graph of the model: {str(error).splitlines()[0]}") from error


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
    own = _of_many_numbers({(name, row): truth[name, row] for row, name in enumerate(names)})
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


def _of_many_numbers(own: Dict[Tuple[str, int], Tensors]) -> Dict[Tuple[str, int], Tensors]:
    """Return the rows' outputs of so many numbers that chance does not decide how near to the truth they come.

    Raises:
        Inapplicable: there are none, as of two rows of a classifier: the errors of two runs in the same precision,
            over four numbers, are now and then four times one another.
    """
    sizes = {path: sum(row[path].numel() for row in own.values()) for path in next(iter(own.values()))}
    found = {path for path, size in sizes.items() if size >= FEWEST_NUMBERS}
    if not found:
        raise Inapplicable(f"of outputs of {sizes} numbers, fewer than {FEWEST_NUMBERS}, chance decides the error")
    return {key: {path: tensor for path, tensor in row.items() if path in found} for key, row in own.items()}


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
