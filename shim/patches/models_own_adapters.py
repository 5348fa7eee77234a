"""Adapters in a model of transformers itself: `adapter_names` are an unknown keyword there, or ignored.

`model.add_adapter` and `model.load_adapter` of transformers, and PEFT's `inject_adapter_in_model`, put the layers into
the model without a PEFT model around it. Models that take any keyword then run every row under the active adapter.
"""

from __future__ import annotations

import inspect
from typing import Any, Iterator, Sequence, Type

from shim.patch import Patch, Replacement, with_subclasses
from shim.patches import toys


def is_broken() -> bool:
    """Call a toy that takes any keyword: does each row get its own adapter?"""
    import torch

    model, inputs = toys.with_own_adapters()
    with torch.no_grad():
        try:
            mixed = model(inputs, adapter_names=["one", "two"])
        except (ValueError, TypeError):
            return True
        alone = [model(inputs, adapter_names=[name, name]) for name in ("one", "two")]
    return bool(torch.allclose(*alone)) or not torch.allclose(mixed, torch.cat([alone[0][:1], alone[1][1:]]))


def replacements() -> Sequence[Replacement]:
    """Let every model of transformers take `adapter_names` where it is called, and where it generates."""
    from transformers import GenerationMixin, PreTrainedModel

    from shim.call import own_call_with_adapter_names

    owners = (GenerationMixin, PreTrainedModel)
    return [
        # Not `forward`, of which each class has one of its own.
        Replacement.by(PreTrainedModel, "__call__", own_call_with_adapter_names()),
        *(found for cls in with_subclasses(*owners) for found in _generate_of(cls)),
        *_continuous(GenerationMixin),
        # transformers imports a model when it is first used: the classes to come may have their own generate, too.
        *(Replacement(owner, "__init_subclass__", _telling_of_subclasses(owner)) for owner in owners),
    ]


def _generate_of(cls: Any) -> Sequence[Replacement]:
    from shim.call import own_generate_with_adapter_names

    original = vars(cls).get("generate")
    if original is None or hasattr(original, "takes_adapter_names"):
        return ()
    return (Replacement(cls, "generate", own_generate_with_adapter_names(original)),)


def _continuous(owner: Any) -> Iterator[Replacement]:
    """Refuse names where requests are batched as they come: a thread of its own runs them."""
    from shim.call import method_without_adapter_names

    # Breakpoint: huggingface/transformers#35727, 4.52 or 4.53: continuous batching.
    names = ("generate_batch", "init_continuous_batching", "continuous_batching_context_manager")
    for cls in owner.__mro__:
        for name in names:
            original = vars(cls).get(name)
            if original is not None and _drops_keywords(original):
                yield Replacement(cls, name, method_without_adapter_names(original))


def _drops_keywords(method: Any) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(method).parameters.values())


def _telling_of_subclasses(owner: Any) -> Any:
    from shim.install import apply_more

    original = vars(owner).get("__init_subclass__")

    def __init_subclass__(cls: Type[Any], /, **kwargs: Any) -> None:
        if original is None:
            super(owner, cls).__init_subclass__(**kwargs)
        else:
            original.__get__(None, cls)(**kwargs)
        apply_more(_generate_of(cls))

    return classmethod(__init_subclass__)


PATCH = Patch(
    name="models_own_adapters",
    defect="adapter_names are refused or ignored by a transformers model that has adapters of its own",
    breakpoint="none yet; huggingface/transformers#25077 (4.33) brought add_adapter",
    distribution="transformers",
    affected=">=4.33",
    clauses=("L5", "F5"),
    check="a_models_own_adapters_give_each_row_its_own_run",
    is_broken=is_broken,
    replacements=replacements,
)
