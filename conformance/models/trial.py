"""A user's model run by itself before any check: what cannot be examined is said at once, and not called wrong."""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, Any

from conformance.models.named import raised
from conformance.models.precision import cast, default_dtype
from conformance.outputs import tensors_of
from conformance.selection import CannotLoad

if TYPE_CHECKING:
    from conformance.models.model import Build, Inputs


def try_alone(spec: str, model: Any, build: Build, inputs: Inputs) -> None:
    """Build the model of `spec` a second time and run a copy as the checks do: in float64, all samples and one alone.

    It runs on the CPU, or else on CUDA where there is one.

    Args:
        model: the model as it was built first, which tells whether it runs at all.

    Raises:
        CannotLoad: it cannot be built again or copied, does not run, or returns no tensor; what to do is said.
    """
    import torch

    again = _built_again(spec, build)
    failure = _failure(model, again, inputs, "cpu")
    if failure and torch.cuda.is_available():
        failure = _failure(model, again, inputs, "cuda") and failure
    if failure:
        raise CannotLoad(f"{spec} returned a {type(model).__name__} that {failure}")


def _built_again(spec: str, build: Build) -> Any:
    import torch

    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), default_dtype(torch.float64):
            warnings.simplefilter("ignore")
            return build()
    except CannotLoad as error:
        raise CannotLoad(
            f"{error}. Its first call was fine and its second was not, but it is called several times, in one process "
            "or more: do what can be done only once, such as registering a name, where its module is imported"
        ) from error


def _failure(model: Any, again: Any, inputs: Inputs, device: str) -> str:
    """Return what stands in the way of every check on `device`; nothing where it runs."""
    import torch

    try:
        exact = copy.deepcopy(again).double().to(device)
    except Exception as error:
        return f"cannot be copied and turned to float64, as every check does: it {raised(error)}"
    every = {name: value.to(device) for name, value in cast(inputs, torch.float64).items()}
    one = {name: value[:1] for name, value in every.items()}
    try:
        with default_dtype(torch.float64):
            output = _run(exact, every)
    except Exception as error:
        return _why(model, inputs, error)
    if not tensors_of(output):
        return (
            f"returns a {type(output).__name__} without any tensor in it that can be found, but should a tensor, or "
            "tuples, lists, dicts, dataclasses or model outputs of tensors"
        )
    try:
        with default_dtype(torch.float64):
            _run(exact, one)
    except Exception as error:
        return f"runs on {len(next(iter(inputs.values())))} samples, but should on one alone too: it {raised(error)}"
    return ""


def _why(model: Any, inputs: Inputs, error: Exception) -> str:
    """Return what is wrong with a model that fails in float64: that, or that it fails in any case."""
    try:
        _run(model, inputs)
    except Exception as at_all:
        return (
            f"does not run on the inputs that came with it, but should, without adapters: it {raised(at_all)}. Inputs "
            "are the arguments of its forward, by name"
        )
    return (
        f"runs as it is, but should in float64 too, in which all rows are compared: it {raised(error)}. Nothing can be "
        "checked in a lower precision: let its forward follow the dtype of its weights, as by x.to(self.weight.dtype) "
        "in the place of x.float(), and its kernels take float64, as by set_experts_implementation('eager')"
    )


def _run(model: Any, inputs: Inputs) -> Any:
    import torch

    with torch.no_grad(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.eval()(**inputs)
