"""`generate` compiles the model by itself (a static cache on CUDA): the graph keeps one adapter for every row."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any, Callable, Sequence

from shim.patch import Patch, Replacement


def is_broken() -> bool:
    """Ask, as generate does inside a mixed call, for the function to decode with: is it the compiled one?"""
    import transformers

    from shim.selection import BASE, Selection, select

    get_compiled_call = getattr(transformers.PreTrainedModel, "get_compiled_call", None)
    if get_compiled_call is None:
        return False
    config = transformers.CompileConfig()
    model = _Compiled(config)
    with select(Selection(model, BASE, {})):
        return bool(get_compiled_call(model, config) is model._compiled_call)


def replacements() -> Sequence[Replacement]:
    """Let generate decode a mixed batch by the model's own call; plain calls are compiled as before."""
    from transformers import PreTrainedModel

    return [Replacement.by(PreTrainedModel, "get_compiled_call", _own_call(PreTrainedModel.get_compiled_call))]


class _Compiled:
    """What `get_compiled_call` asks of a model that was compiled by an earlier call."""

    def __init__(self, config: Any) -> None:
        self.config = SimpleNamespace(model_type="toy")
        self.generation_config = SimpleNamespace(compile_config=config)
        self._last_compile_config = config
        self._compiled_call = object()

    def _default_compile_config(self) -> Any:
        return self._last_compile_config

    def __call__(self) -> None:
        """Do nothing."""


def _own_call(original: Callable[..., Any]) -> Callable[..., Any]:
    from shim.selection import is_selected

    @functools.wraps(original)
    def get_compiled_call(self: Any, compile_config: Any) -> Any:
        return self.__call__ if is_selected() else original(self, compile_config)

    return get_compiled_call


PATCH = Patch(
    name="compiled_generate",
    defect="generate compiles a model with a static cache on CUDA, whose graph gives every row the active adapter",
    breakpoint="none yet; huggingface/transformers#34923 (4.47) brought get_compiled_call",
    distribution="transformers",
    affected=">=4.47",
    clauses=("E1", "G8"),
    check="a_generate_that_compiles_itself_gives_the_rows_own_tokens",
    is_broken=is_broken,
    replacements=replacements,
)
