"""The one place where the suite touches the shim: it is installed for a run, or not."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from contextlib import contextmanager, suppress
from typing import Any, Callable, Dict, Iterator, List, Mapping, Sequence, Tuple, Type


@contextmanager
def shim_installed(wanted: bool) -> Iterator[None]:
    """Install the shim for the block where `wanted`; else run it on upstream as it is.

    A shim that was installed before stays as it was afterwards.
    """
    if not wanted:
        yield
        return
    import shim

    was_installed = is_installed()
    shim.install()
    try:
        yield
    finally:
        if not was_installed:
            shim.uninstall()


@contextmanager
def shim_uninstalled() -> Iterator[None]:
    """Take the shim out for the block, where it is in."""
    import shim

    was_installed = is_installed()
    shim.uninstall()
    try:
        yield
    finally:
        if was_installed:
            shim.install()


def raised_by_upstream(call: Callable[[], object]) -> str:
    """Return the class of what `call` raises without the shim; nothing where it runs."""
    with shim_uninstalled():
        try:
            call()
        except Exception as error:
            return type(error).__name__
    return ""


def forget_plans(model: Any) -> None:
    """Let the next call on `model` trace again."""
    from shim.routing.plans import forget

    forget(model)


def packed(model: Any) -> int:
    """Lay the weights of each layer's adapters side by side, and return how many bytes were moved."""
    import shim

    return shim.pack(model)


class RoutingProbe:
    """What the bench times of the shim's insides: one mixed call on a model, taken apart.

    layer_calls: how many there are in a forward.
    """

    def __init__(self, model: Any, inputs: Mapping[str, Any], names: Sequence[str]) -> None:
        import torch

        from shim.batch import resolve
        from shim.routing.explain import forward_of
        from shim.routing.inputs import Inputs
        from shim.routing.layers import RowGroups
        from shim.routing.plans import plan_for

        self._model, self._inputs, self._names = model, Inputs(dict(inputs)), list(names)
        with shim_installed(True):
            batch = resolve(model, self._names)
            self._plan = plan_for(forward_of(model), batch, self._inputs, range(len(names)), {})
        self._batch, self._groups = batch, RowGroups(batch)
        layers = dict(batch.layers)
        blank = [torch.empty([size or 1 for size in call.shape]) for call in self._plan.calls]
        self._calls = [(layers[call.layer], x) for call, x in zip(self._plan.calls, blank)]
        self.layer_calls = len(self._calls)

    def look_up_layer_calls(self) -> None:
        """Find the rows of every layer call of a forward, and run none."""
        from shim.routing.replay import Replay

        route = Replay(self._plan, self._batch, self._groups)
        for layer, x in self._calls:
            call = route.next_call(layer, (x,))
            if call.rules[0] is not None:
                self._groups.of(layer, call.rules[0], x.device)

    def prepare_call(self) -> None:
        """Check the names and the model, and find the plan: all that a call does once."""
        from shim.batch import resolve
        from shim.routing.plans import look_up, signature_of

        batch = resolve(self._model, self._names)
        look_up(self._model, signature_of(batch, self._inputs, range(len(self._names)), {}, "forward"))


class KernelProbe:
    """What the bench times of the shim's kernels: mixed calls of LoRA layers, all with one list of names.

    Each of `ways` takes a layer and its input (rows, tokens, width), and returns what to add to a base product of the
    same rows: a function of (input, base product), which it may write.
    """

    def __init__(self, names: Sequence[str], device: Any) -> None:
        from shim.kernels.lora import Segments, bank_of
        from shim.kernels.tables import RowTable
        from shim.kernels.triton_lora import fused, serves
        from shim.kernels.weights import weights_by_rank

        adapters = dict.fromkeys(names)
        rows = {name: [row for row, other in enumerate(names) if other == name] for name in adapters}
        self._table = table = RowTable(rows, len(names), device)

        def only(layer: Any) -> Any:
            found: Any = weights_by_rank(layer, table.adapters)  # all of one rank
            return found[0][1]

        self.ways: Dict[str, Callable[[Any, Any], Any]] = {
            "triton": lambda layer, x: getattr(fused(layer, x, table) if serves(x) else None, "add", None),
            "bmm": lambda layer, x: bank_of(only(layer), table.tiles(x.shape[1])).add,
            "one by one": lambda layer, x: Segments(table, only(layer)).add,
        }

    def run(self, layer: Any, x: Any) -> Any:
        """Return the output of `layer` by the kernel that the shim chooses."""
        from shim.kernels.layer import Memory, run_linear

        return run_linear(layer, x, 0, self._table, Memory(keeps_weights=False))


def refusals() -> Tuple[Type[BaseException], ...]:
    """Return the errors that say by name why a batch cannot be proven exact; upstream has none."""
    import shim

    return (shim.RefusedError,)


def declines() -> Tuple[Type[BaseException], ...]:
    """Return the errors by which the shim declines a call: it cannot be exact, or what is a sample cannot be told."""
    import shim

    return (shim.RefusedError, shim.AdapterNamesError)


def allow_mixed_outputs(names: Sequence[str]) -> bool:
    """Let only these outputs be made of several samples from now on; return whether a shim is there to ask."""
    import shim

    if not is_installed():
        return False
    shim.install(mixed_outputs=list(names))
    return True


@contextmanager
def never_split() -> Iterator[None]:
    """Within the block the shim refuses what it would split by adapter; what was chosen otherwise stays."""
    import shim
    from shim import policy

    before = policy.chosen()
    shim.install(fallback=policy.REFUSE, mixed_outputs=sorted(before.mixed_outputs))
    try:
        yield
    finally:
        shim.install(fallback=before.fallback, mixed_outputs=sorted(before.mixed_outputs))


def reinstalling_faults() -> List[str]:
    """Install, install again and uninstall; return what the second install changed or uninstalling left.

    The shim is installed afterwards if and only if it was before.
    """
    import shim

    was_installed = is_installed()
    shim.uninstall()
    upstream = _patchable()
    try:
        shim.install()
        once = _patchable()
        shim.install()
        faults = [f"installing twice replaces {name}" for name in _changed(once, _patchable())]
        if not _changed(upstream, once):
            faults.append("installing replaces nothing")
        shim.uninstall()
        return faults + [f"uninstalling leaves {name} changed" for name in _changed(upstream, _patchable())]
    finally:
        if was_installed:
            shim.install()


def _patchable() -> Dict[str, Any]:
    """Return the attributes of every class of torch, transformers and PEFT that a shim may touch, by name."""
    import peft
    import torch
    import transformers
    from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
    from peft.utils import other

    owners = [
        torch.nn.Module,
        transformers.PreTrainedModel,
        transformers.GenerationMixin,
        BaseTuner,
        BaseTunerLayer,
        other,
    ]
    owners += [value for value in vars(peft).values() if isinstance(value, type)]
    owners += [value for value in vars(other).values() if isinstance(value, type)]
    return {
        f"{owner.__name__}.{name}": value
        for owner in owners
        for name, value in vars(owner).items()
        if not name.startswith("_abc")
    }


def _changed(before: Dict[str, Any], after: Dict[str, Any]) -> List[str]:
    return sorted(n for n in {*before, *after} if before.get(n, after) is not after.get(n, before))


def import_whole_shim() -> None:
    """Import every module of the shim that can be, so that all calls of a long run are of one version of it."""
    import shim

    for module in pkgutil.walk_packages(shim.__path__, "shim."):
        if not module.name.endswith("__main__"):
            with suppress(ImportError):  # a module for packages that are not installed
                importlib.import_module(module.name)


def takes_owners() -> bool:
    """Whether the shim is installed and can be told whose the rows of packed inputs are."""
    import shim

    explain = getattr(shim, "explain", None)
    known = inspect.signature(explain).parameters if explain else {}
    return "owners" in known and is_installed()


def is_installed() -> bool:
    """Whether the shim has patched anything."""
    import shim

    return any(status.applied for status in shim.status())


def explained(model: Any, inputs: Dict[str, Any], adapter_names: List[str], **more: Any) -> str:
    """Return the route that the shim would take for a call; "unknown" without it, or where it cannot say."""
    import shim

    explain = getattr(shim, "explain", None)
    if explain is None or not is_installed():
        return "unknown"
    return str(explain(model, inputs, adapter_names, **more).route)


def explanation(model: Any, inputs: Dict[str, Any], adapter_names: Sequence[str]) -> str:
    """Return in words the route that the shim takes for a call, layer by layer; or why it refuses it."""
    import shim

    with shim_installed(True):
        try:
            return str(shim.explain(model, inputs, list(adapter_names)))
        except shim.RefusedError as refused:
            return f"route: refuse ({refused})"
