"""A load that fails leaves its adapter behind: without its weights, yet in the model and answering to its name.

`load_adapter` adds the adapter, and only then reads its file. Where that is missing, cut off, or of another width or
rank, the call raises, but the new adapter stays, as it was initialised: rows under its name are the base model's,
silently. Where the name was known, the weights that did fit are the file's by then, and the others are not.
"""

from __future__ import annotations

import functools
import inspect
import tempfile
import threading
import weakref
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator, List, Sequence, Tuple

from shim.patch import Patch, Replacement
from shim.patches import toys

Method = Callable[..., Any]

_LOCK = threading.Lock()
_LOADING: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def is_broken() -> bool:
    """Load an adapter whose file is empty: is anything left of it?"""
    import torch

    model, _ = toys.folded(1)
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        model.peft_config["one"].save_pretrained(folder)
        Path(folder, "adapter_model.safetensors").write_bytes(b"")
        try:
            model.load_adapter(folder, adapter_name="three")
        except Exception:  # of several classes, as versions go
            return "three" in model.peft_config or any(".three." in name for name, _ in model.named_modules())
    raise RuntimeError("an empty file was loaded as an adapter, but should not be")


def replacements() -> Sequence[Replacement]:
    """Let a load that fails leave the model as it was. `PeftMixedModel` loads by `PeftModel`'s method."""
    from peft import PeftModel
    from transformers.integrations import PeftAdapterMixin

    owners = (PeftModel, PeftAdapterMixin)
    return [Replacement(owner, "load_adapter", _all_or_nothing(vars(owner)["load_adapter"])) for owner in owners]


def _all_or_nothing(original: Method) -> Method:
    signature = inspect.signature(original)

    @functools.wraps(original)
    def load_adapter(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            name = signature.bind(self, *args, **kwargs).arguments.get("adapter_name") or "default"
        except TypeError:
            return original(self, *args, **kwargs)  # raises Python's own
        with _LOCK:
            one_at_a_time = _LOADING.setdefault(self, threading.RLock())  # or it would take back another thread's load
        with one_at_a_time, _failure_leaves_the_model(self, str(name)):
            return original(self, *args, **kwargs)

    return load_adapter


@contextmanager
def _failure_leaves_the_model(model: Any, adapter: str) -> Iterator[None]:
    """Put back what `model` is made of where the block raises, and the weights of `adapter` where it had any.

    Weights are known by their memory: what initialises an adapter by the base's (PiSSA, OLoRA) gives those new memory.
    """
    from shim.modules import named_buffers, named_modules, named_parameters
    from shim.no_trace import remember

    restore_state = remember(model)
    modules = [(module, dict(vars(module)), _containers(module)) for _, module in named_modules(model)]
    parameters = [(parameter, parameter.data, parameter.requires_grad) for _, parameter in named_parameters(model)]
    tensors = [*named_parameters(model), *named_buffers(model)]
    values = [(tensor, tensor.detach().clone()) for name, tensor in tensors if _is_of(adapter, name)]
    try:
        yield
    except BaseException as error:
        for module, attributes, containers in modules:
            for container, content in [(vars(module), attributes), *containers]:
                _refill(container, content)
        for parameter, data, requires_grad in parameters:
            parameter.data = data
            parameter.requires_grad_(requires_grad)
        for tensor, value in values:
            tensor.data.copy_(value)
        restore_state()
        if hasattr(error, "add_note"):  # Breakpoint: python 3.11
            error.add_note(f"adapter {adapter!r} was not loaded, and the model is as it was before")
        raise


def _is_of(adapter: str, name: str) -> bool:
    return f".{adapter}." in f"{name}."


def _containers(module: Any) -> List[Tuple[Any, Any]]:
    """Return the dictionaries, lists and sets that a module holds, each with its content: the adapters' settings."""
    kinds = (dict, list, set)
    return [(value, value.copy()) for value in vars(module).values() if isinstance(value, kinds)]


def _refill(container: Any, content: Any) -> None:
    """Give `container`, which others may hold and calls in other threads read meanwhile, the content that it had."""
    if isinstance(container, list):
        container[:] = content
        return
    for added in set(container) - set(content):
        container.pop(added) if isinstance(container, dict) else container.discard(added)
    container.update(content)


PATCH = Patch(
    name="failed_load",
    defect="an adapter that failed to load stays in the model and answers to its name, without its weights",
    breakpoint="none yet; huggingface/peft#798 was closed when add_adapter was rolled back",
    distribution="peft",
    affected=">=0.9",
    clauses=("S1", "F1"),
    check="an_adapter_that_failed_to_load_is_not_there",
    is_broken=is_broken,
    replacements=replacements,
)
