"""One adapter for each input of a transformers pipeline: a name goes with its input through batching, to the model."""

from __future__ import annotations

import copy
import functools
import inspect
from dataclasses import dataclass
from typing import Any, Callable, List, Sequence, Tuple

from shim.errors import AdapterNamesError, RefusedError

_KEY = "adapter_names"
_READ_ONLY = frozenset({"can_generate", "forward"})  # which pipelines ask for its signature


def call_with_adapter_names(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return `original`, how a pipeline is called, with the keyword `adapter_names`: one for each input.

    Raises (beside what the model's own mixed call does):
        AdapterNamesError: not as many names as inputs.
        RefusedError: the inputs are a dataset or a generator, or the pipeline runs a part of the model by itself.
    """

    @functools.wraps(original)
    def call(self: Any, inputs: Any, *args: Any, adapter_names: Any = None, **kwargs: Any) -> Any:
        if adapter_names is None:
            return original(self, inputs, *args, **kwargs)
        return original(_naming(self, adapter_names), inputs, *args, **kwargs)

    return call


@dataclass(frozen=True)
class _Named:
    """An input of a pipeline, and the adapter that it asks for."""

    value: Any
    name: str


def _naming(pipeline: Any, names: Any) -> Any:
    """Return a copy of `pipeline` for one call, in which each input takes its name along."""
    if not isinstance(names, (list, tuple)):
        raise AdapterNamesError(f"adapter_names is {names!r}, but should be a list with one name for each input")
    own = copy.copy(pipeline)
    own.get_iterator = functools.partial(_get_iterator, pipeline.get_iterator.__func__, own, tuple(names))
    own.run_single = functools.partial(_run_single, pipeline.run_single.__func__, own, tuple(names))
    own.preprocess = functools.partial(_preprocess, pipeline)
    own.forward = functools.partial(_forward, pipeline)
    return own


def _get_iterator(original: Any, own: Any, names: Tuple[str, ...], inputs: Any, *args: Any) -> Any:
    if not isinstance(inputs, list):
        raise RefusedError(
            f"the inputs of the pipeline are a {type(inputs).__name__}, whose samples cannot be counted beforehand. "
            "With adapter_names pass a list"
        )
    return original(own, _named(inputs, names), *args)


def _run_single(original: Any, own: Any, names: Tuple[str, ...], inputs: Any, *args: Any) -> Any:
    return original(own, _named([inputs], names)[0], *args)


def _named(inputs: Sequence[Any], names: Tuple[str, ...]) -> List[_Named]:
    if len(inputs) != len(names):
        raise AdapterNamesError(
            f"Length of `adapter_names` is {len(names)}, but should be {len(inputs)}, the number of inputs"
        )
    return [_Named(value, name) for value, name in zip(inputs, names)]


def _preprocess(pipeline: Any, named: _Named, **params: Any) -> Any:
    made = pipeline.preprocess(named.value, **params)
    if inspect.isgenerator(made):  # an input of several chunks
        return (_with_name(chunk, named.name) for chunk in made)
    return _with_name(made, named.name)


def _with_name(model_inputs: Any, name: str) -> Any:
    """Put the name among a model's inputs, where pipelines gather what is not a tensor into a list."""
    model_inputs[_KEY] = name
    return model_inputs


def _forward(pipeline: Any, model_inputs: Any, **params: Any) -> Any:
    names = model_inputs.pop(_KEY)
    own = copy.copy(pipeline)
    own.model = _Naming(pipeline.model, [names] if isinstance(names, str) else list(names))
    return own.forward(model_inputs, **params)


class _Naming:
    """A model that is called, and generates, with the names of one batch."""

    def __init__(self, model: Any, names: List[str]) -> None:
        self._model, self._names = model, names

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self._model)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._model(*args, adapter_names=self._names, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        return self._model.generate(*args, adapter_names=self._names, **kwargs)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._model, name)
        if callable(value) and name not in _READ_ONLY:
            raise RefusedError(
                f"the pipeline runs {name} of {type(self._model).__name__} by itself, where adapter_names have no "
                "say. Run one adapter a call, or call the model"
            )
        return value
