"""Float64 all the way: parts of a model that turn to float32 by name are kept in the precision of the rest."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Iterator


@contextmanager
def without_narrowing() -> Iterator[None]:
    """Let `x.float()`, `dtype=torch.float32` and the like mean float64 within the block.

    Many models take a softmax, a norm or a router's logits in float32 whatever their own precision. Rounding there
    depends on which rows stand beside a row, and would hide any error smaller than itself.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    narrow = {torch.float32, torch.bfloat16, torch.float16}
    methods = {torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16}
    dtype = torch.dtype

    class Wide(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            # Every call of torch passes here: the usual case, with no dtype in it, must be quick.
            if func in methods:
                return args[0].double()
            for value in args:
                if value.__class__ is dtype:
                    args = tuple(torch.float64 if item.__class__ is dtype and item in narrow else item for item in args)
                    break
            if kwargs is None:
                return func(*args)
            if kwargs.get("dtype") in narrow:
                kwargs = {**kwargs, "dtype": torch.float64}
            return func(*args, **kwargs)

    with Wide():
        yield
