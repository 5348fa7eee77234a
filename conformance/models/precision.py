"""Running a model in another precision than the float32 it is built in."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Iterator

if TYPE_CHECKING:
    import torch

    from conformance.models.model import Inputs


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make `dtype` the dtype of tensors created without one, within the block, in every thread.

    A model turned to float64 needs it: transformers 4 writes float64's least number into masks of the default
    dtype, and fails with "value cannot be converted to type float without overflow".
    """
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def without_tf32() -> Iterator[None]:
    """Let float32 products on CUDA be float32 within the block, and not TF32 with its ten bits."""
    import torch

    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def cast(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    """Return the inputs with floating-point tensors in `dtype`, and ids and masks as they are."""
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in inputs.items()}
