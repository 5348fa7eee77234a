"""Quantised layers under a mixed batch (contract L3): whether a layer scales a row of its input by other rows.

Most quantise weights, or each row of their input by itself. Some look at the whole input: bitsandbytes' LLM.int8 takes
the columns out that hold an outlier in any row, and a scale per tensor is the largest value's of all rows. A row is
then not what it is alone, under whatever adapter, and no route can make it so.
"""

from __future__ import annotations

from typing import Any, Iterator, List, Optional

import torch

from shim.errors import RefusedError
from shim.modules import base_model_of, named_modules, named_parameters

# Their layers keep a history of the scales that they met, so that they cannot be tried without a trace; those scales
# are the whole tensor's. No machine here runs them.
_KEEP_SCALES = frozenset({"neural_compressor", "transformer_engine"})

# What a row is tried beside: far beyond any threshold for outliers, and a number in every precision.
_HUGE = 1000.0


def check_quantised(model: Any) -> None:
    """Check that no quantised layer of `model` makes a row of other rows. Call it after the model has run.

    Each is run on inputs of two rows whose first rows are the same, and must give that row's output bit for bit: tried,
    rather than believed of a class. On its first run a layer may settle its precision by its input, hence after.

    Raises:
        RefusedError: one does, or cannot be tried.
    """
    dtype = next((p.dtype for _, p in named_parameters(base_model_of(model)) if _is_plain(p)), torch.float32)
    for name, module in quantised_layers(model):
        if type(module).__module__.split(".")[0] in _KEEP_SCALES:
            raise RefusedError(
                f"{name} ({_called(module)}) may quantise its input by scales of the whole batch, and has not been "
                "shown not to. Run one sample a call, or load the base model without it"
            )
        alone, again, beside = _first_rows(name, module, dtype)
        if not torch.equal(alone, again):
            raise RefusedError(
                f"{name} ({_called(module)}) gives other values when it is run again on the same input, so that no row "
                "is ever what it is alone. Choose another of its kernels, or fewer threads"
            )
        if not torch.equal(alone, beside):
            raise RefusedError(
                f"{name} ({_called(module)}) quantises its input by values of the whole batch, so that a row depends "
                f"on the other samples' whatever its adapter. {_way_out(module)}"
            )


def quantised_layers(model: Any) -> Iterator[Any]:
    """Yield (name, module) of every linear layer of `model` that holds something else than floats of torch's own."""
    for name, module in named_modules(model):
        state = vars(module)
        tensors = [*state["_parameters"].values(), *state["_buffers"].values()]
        package = type(module).__module__.split(".")[0]
        if isinstance(state.get("in_features"), int) and (
            package in _KEEP_SCALES or any(one is not None and not _is_plain(one) for one in tensors)
        ):
            yield name, module


def _is_plain(tensor: Any) -> bool:
    """Whether `tensor` is torch's own (a DTensor is), of floats of two bytes or more."""
    is_float = tensor.is_floating_point() or tensor.is_complex()
    return is_float and tensor.element_size() > 1 and type(tensor).__module__.split(".")[0] == "torch"


def _first_rows(name: str, module: Any, dtype: torch.dtype) -> List[torch.Tensor]:
    """Return what the layer makes of one row beside zeros, beside zeros again, and beside a huge row.

    Raises:
        RefusedError: the layer runs in no precision that could be its own.
    """
    candidates = [getattr(module, "compute_dtype", None), dtype, torch.float16, torch.bfloat16, torch.float32]
    device = next(tensor.device for tensor in [*module.parameters(), *module.buffers()])
    failure: Optional[Exception] = None
    for candidate in dict.fromkeys(one for one in candidates if isinstance(one, torch.dtype)):
        row = torch.linspace(-1, 1, module.in_features, device=device).to(candidate)
        try:
            with torch.no_grad():
                return [module.forward(torch.stack([row, row * size]))[0] for size in (0.0, 0.0, _HUGE)]
        except Exception as error:
            failure = failure or error
    raise RefusedError(
        f"{name} ({_called(module)}) could not be tried on two rows: {type(failure).__name__}: {failure}. So it is not "
        "known whether it quantises a row by other samples'. Run one adapter a call"
    ) from failure


def _called(module: Any) -> str:
    return f"{type(module).__module__.split('.')[0]}'s {type(module).__name__}"


def _way_out(module: Any) -> str:
    threshold = getattr(getattr(module, "state", None), "threshold", 0.0)
    if threshold:  # LLM.int8, https://arxiv.org/abs/2208.07339
        return (
            f"It takes out columns with an outlier beyond {threshold} in any row: load the model with "
            "llm_int8_threshold=0.0, or set .state.threshold = 0.0 on such layers; or run one sample a call"
        )
    return "Quantise activations by row (per token), or only weights; or run one sample a call"
