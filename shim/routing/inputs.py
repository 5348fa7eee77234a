"""Which inputs of a call hold one entry per sample, and how to take some samples of them."""

from __future__ import annotations

import functools
import inspect
import numbers
import re
from dataclasses import dataclass
from typing import Any, Callable, Dict, FrozenSet, List, Mapping, Optional, Sequence, Tuple

import torch

from shim.batch import MixedBatch
from shim.errors import AdapterNamesError, RefusedError
from shim.modules import base_model_of
from shim.routing.rows import RowRule
from shim.routing.tree import VALUES, by_path, is_cache, is_object, map_leaves

# Inputs whose first dimension transformers documents as the batch, whatever the model.
PER_SAMPLE: FrozenSet[str] = frozenset(
    "inputs input_ids attention_mask token_type_ids position_ids inputs_embeds labels decoder_input_ids "
    "decoder_attention_mask decoder_inputs_embeds decoder_position_ids encoder_hidden_states "
    "encoder_attention_mask encoder_outputs past_key_values mems input_features input_values "
    "negative_prompt_ids negative_prompt_attention_mask task_ids".split()
)
# Inputs that transformers documents as one for the whole batch, even when a dimension equals its size.
SHARED: FrozenSet[str] = frozenset(
    "cache_position logits_to_keep head_mask decoder_head_mask cross_attn_head_mask encoder_head_mask".split()
)
# The inputs that no forward changes, beside tensors; an empty container is a leaf too.
_KNOWN: Tuple[type, ...] = (
    torch.Tensor,
    *VALUES,
    numbers.Number,
    torch.layout,
    torch.memory_format,
    torch.Size,
    set,
    frozenset,
    list,
    dict,
    tuple,
)

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


@dataclass(frozen=True)
class Inputs:
    """The arguments of one call by name; the first `positional` of them were given by position."""

    values: Mapping[str, Any]
    positional: int = 0

    @classmethod
    def of(cls, args: Sequence[Any], kwargs: Mapping[str, Any], signature: Sequence[str]) -> Inputs:
        """Return the arguments `args` and `kwargs` of a function whose positional parameters are `signature`."""
        twice = sorted(set(signature[: len(args)]) & set(kwargs))
        if twice:
            raise TypeError(f"the call got multiple values for argument {twice[0]!r}")
        names = (*signature[: len(args)], *(f"argument {i}" for i in range(len(signature), len(args))))
        return cls({**dict(zip(names, args)), **kwargs}, len(args))

    def call(self, function: Callable[..., Any]) -> Any:
        """Call `function` with the arguments as they were given."""
        items = list(self.values.items())
        args = [value for _, value in items[: self.positional]]
        return function(*args, **dict(items[self.positional :]))

    def caches(self) -> Dict[str, Any]:
        """Return the cache objects among the arguments by name; a forward changes them in place."""
        return {name: value for name, value in self.values.items() if is_cache(value)}

    def tensors(self) -> Dict[str, Any]:
        """Return every tensor by path."""
        return {path: leaf for path, leaf in self.leaves().items() if isinstance(leaf, torch.Tensor)}

    def leaves(self) -> Dict[str, Any]:
        """Return every leaf by path, beginning with the argument's name; an object is one: a forward may fill it."""
        given = (by_path(value, name, is_object) for name, value in self.values.items())
        return {path: leaf for found in given for path, leaf in found.items()}

    def map(self, function: Callable[[str, Any], Any]) -> Inputs:
        """Return inputs with `function(path, leaf)` in the place of each leaf; containers are new."""
        values = {name: map_leaves(function, value, name, is_object) for name, value in self.values.items()}
        return Inputs(values, self.positional)


def parameter_names(function: Callable[..., Any]) -> Tuple[str, ...]:
    """Return the names of the positional parameters of `function`, () where it has no signature."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return ()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(p.name for p in parameters if p.kind in kinds)


def check_owners(owners: Any, batch: MixedBatch, inputs: Inputs) -> Dict[str, RowRule]:
    """Return whose each index of the inputs is that `owners` names: along dim 0, or where it broadcasts from.

    Raises:
        AdapterNamesError: it names no tensor among the inputs, is not as long as that, or counts samples that
            the batch does not have.
    """
    if not isinstance(owners, Mapping):
        raise AdapterNamesError(
            f"owners is {type(owners).__name__} {owners!r}, but should be a dict of inputs' names and the sample of "
            "each of their rows, such as {'pixel_values': [0, 0, 1]}"
        )
    tensors = inputs.tensors()
    found: Dict[str, RowRule] = {}
    for name, ids in owners.items():
        if name not in tensors:
            raise AdapterNamesError(f"owners names {name!r}, but should name tensors among {sorted(tensors)}")
        given, shape, count = _integers(name, ids), tuple(tensors[name].shape), len(batch.names)
        samples = tuple(int(sample) for sample in given.reshape(-1))
        dim = next((dim for dim, size in enumerate(given.shape) if size != 1), 0)
        along = given.dim() == 1 or (given.dim() == len(shape) and given.shape[dim] == given.numel())
        fits = along and shape[dim : dim + 1] == (len(samples),)
        if not fits or (samples and not 0 <= min(samples) <= max(samples) < count):
            raise AdapterNamesError(
                f"owners[{name!r}] has {len(samples)} entries from {min(samples, default=0)} to "
                f"{max(samples, default=0)} in shape {tuple(given.shape)}, but should have one for each row of "
                f"{shape}, each a sample, from 0 to {count - 1}. Where samples lie along another dimension, pass "
                "a tensor with all its entries along theirs, and every other dimension of size 1"
            )
        found[name] = RowRule(dim, samples)
    return found


def _integers(name: str, ids: Any) -> torch.Tensor:
    try:
        given = torch.as_tensor(ids)
    except (TypeError, ValueError, RuntimeError):
        given = None
    if given is None or (given.numel() and given.dtype not in _INTEGERS):
        raise AdapterNamesError(
            f"owners[{name!r}] is {ids!r}, but should be whole numbers, in a list or a tensor: the sample of each row"
        )
    return given


def sample_count(model: Any, inputs: Inputs, owners: Mapping[str, Any]) -> int:
    """Return how many samples the main input holds: as `owners` counts its rows, or along dim 0; 0 where none is.

    Raises:
        AdapterNamesError: the owners are no whole numbers.
    """
    path, tensor = _main_input(model, inputs)
    if path in owners:
        return max(_integers(path, owners[path]).reshape(-1).tolist(), default=-1) + 1
    return 0 if tensor is None else int(tensor.shape[0])


def check_sample_count(batch: MixedBatch, inputs: Inputs, owners: Mapping[str, RowRule]) -> None:
    """Check that the main input has as many samples as there are names (contract F2).

    An input with `owners` counts no samples by its rows.

    Raises:
        AdapterNamesError: with both numbers.
        RefusedError: there is no tensor to count samples in.
    """
    path, tensor = _main_input(batch.model, inputs)
    if path in owners:
        return
    if tensor is None:
        raise RefusedError(
            "no input is a tensor with samples along dim 0, so adapter_names cannot be matched to samples. "
            "Pass the inputs as tensors"
        )
    if tensor.shape[0] != len(batch.names):
        raise AdapterNamesError(
            f"Length of `adapter_names` is {len(batch.names)}, but should be {tensor.shape[0]}, the number of "
            f"samples: {path} has shape {tuple(tensor.shape)}. Where its rows are not samples but parts of them, say "
            f"whose each row is: owners={{{path!r}: [0, 0, 1, ...]}}"
        )


def check_known(inputs: Inputs) -> None:
    """Check that every input is a tensor, a cache of transformers, or a value that no forward changes.

    Raises:
        RefusedError: an object whose samples cannot be told, and which each part of the batch would change; a cache
            that quantises, which may scale the states of a row by those of others.
    """
    for name, cache in inputs.caches().items():
        if quantises(cache):
            raise RefusedError(
                f"input {name!r} is a {type(cache).__name__}, but should not quantise: its states may be scaled by "
                "those of several samples, which no part of the batch can be given. Let generate make one, row by row "
                "(cache_implementation='quantized'), pass another cache, or run one sample a call"
            )
    for path, leaf in inputs.leaves().items():
        if not isinstance(leaf, _KNOWN) and not callable(leaf) and not _is_of_transformers(leaf):
            raise RefusedError(
                f"input {path!r} is a {type(leaf).__module__}.{type(leaf).__qualname__}, whose samples are not known. "
                "Pass tensors (a cache: one of transformers' classes), or run one adapter a call"
            )


def quantises(cache: Any) -> bool:
    """Whether a cache of transformers, or a layer of one, quantises the states that it keeps."""
    # Breakpoint: huggingface/transformers#39106, 4.54: caches became lists of layers.
    parts = [cache, *(getattr(cache, "layers", None) or ())]
    return any("Quantized" in cls.__name__ for part in parts for cls in type(part).__mro__)


def sample_rules(inputs: Inputs, count: int, owners: Mapping[str, RowRule]) -> Dict[str, RowRule]:
    """Return whose each index is of the tensors that divide by sample: as `owners` says, else one entry per sample.

    An assumption: `rehearsal` proves it before an output is believed.
    """
    one_each = RowRule(0, tuple(range(count)))
    assumed = {
        path: one_each
        for path, tensor in inputs.tensors().items()
        if root_name(path) not in SHARED and tensor.dim() > 0 and tensor.shape[0] == count
    }
    return {**assumed, **owners}


def take(inputs: Inputs, rows: Sequence[int], rules: Mapping[str, RowRule]) -> Inputs:
    """Return the inputs of the samples `rows`, in that order: tensors of `rules` indexed, all else as it is.

    Where `rows` only leave samples out, what is packed keeps its order (all samples, again and again; the last first).

    Caches are copied, so that a forward on the result leaves the caller's as they were.
    """

    caches = inputs.caches()

    @functools.lru_cache(maxsize=None)  # tensors that divide alike share an index: a cache has two for each layer
    def index_of(owners: Sequence[int], device: Any) -> torch.Tensor:
        places: Dict[int, List[int]] = {}
        for index, sample in enumerate(owners):
            places.setdefault(sample, []).append(index)
        chosen = [index for row in rows for index in places.get(row, ())]
        if list(rows) == sorted(set(rows)):
            chosen.sort()
        return torch.tensor(chosen, dtype=torch.long, device=device)

    def pick(path: str, leaf: Any) -> Any:
        rule = rules.get(path)
        if rule is None or rule.dim is None:
            return leaf.clone() if isinstance(leaf, torch.Tensor) and root_name(path) in caches else leaf
        return leaf.index_select(rule.dim, index_of(rule.owners, leaf.device))

    return inputs.map(pick)


def with_caches_cloned(inputs: Inputs) -> Inputs:
    """Return `inputs` with every cache tensor cloned, so that a forward on them leaves no trace."""
    return cloned(inputs, inputs.caches().__contains__)


def cloned(inputs: Inputs, chosen: Callable[[str], bool] = lambda name: True) -> Inputs:
    """Return `inputs` with every tensor cloned of the arguments whose names are `chosen`: all by default."""
    return inputs.map(
        lambda path, leaf: leaf.clone() if isinstance(leaf, torch.Tensor) and chosen(root_name(path)) else leaf
    )


def root_name(path: str) -> str:
    """Return the argument that a path leads into."""
    return re.split(r"[.\[]", path, maxsplit=1)[0]


def _is_of_transformers(value: Any) -> bool:
    """Whether `value` is a setting of transformers: a generation config, a list of criteria."""
    return any(cls.__module__.startswith("transformers.") for cls in type(value).__mro__)


def main_input_names(module: Any) -> Tuple[str, ...]:
    """Return what a model of transformers calls its main input; some name several."""
    named = getattr(module, "main_input_name", None) or ()
    return (named,) if isinstance(named, str) else tuple(named)


def _main_input(model: Any, inputs: Inputs) -> Tuple[str, Optional[Any]]:
    base = base_model_of(model)
    tensors = {p: t for p, t in inputs.tensors().items() if t.dim() > 0 and root_name(p) not in SHARED}
    for name in (*main_input_names(base), "input_ids", "inputs", "inputs_embeds"):
        if name in tensors:
            return name, tensors[name]
    return next(iter(tensors.items()), ("", None))
