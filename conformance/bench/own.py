"""A user's own model: time against the number of its adapters in a batch, beside PEFT and beside switching."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple

from conformance.bench.measurements import Row, one_thread, spread
from conformance.bench.timing import interleaved
from conformance.models.named import made_by
from conformance.selection import CannotLoad
from conformance.shim_switch import raised_by_upstream, shim_installed, shim_uninstalled


def load(spec: str, adapters: Sequence[str]) -> Tuple[Any, Dict[str, Any], List[str]]:
    """Return the PEFT model of `package.module:function`, its inputs, and the names of the adapters to use.

    Args:
        spec: a function of no arguments that returns (model, inputs): the inputs of one batch by name, tensors with
            one entry per sample along dim 0.
        adapters: names of adapters that the model has, or folders of saved ones to load; all that it has where empty.

    Raises:
        CannotLoad: there is no such function, it returns something else, or an adapter is neither.
    """
    model, inputs = made_by(spec)
    for adapter in adapters:
        model = _with(model, adapter)
    if not hasattr(model, "peft_config"):
        raise CannotLoad(
            f"{spec} returned a {type(model).__name__} without adapters; name their folders: --adapters A,B"
        )
    names = [Path(adapter).name for adapter in adapters] or list(model.peft_config)
    return model.eval(), inputs, names


def _with(model: Any, adapter: str) -> Any:
    """Return the model with the adapter loaded, if it is a folder; else it must be there."""
    import peft

    name, known = Path(adapter).name, getattr(model, "peft_config", {})
    if name in known:
        return model
    if not Path(adapter).is_dir():
        raise CannotLoad(f"adapter {adapter!r} is neither loaded (there are {sorted(known)}) nor a folder")
    if hasattr(model, "peft_config"):
        model.load_adapter(adapter, name)
        return model
    return peft.PeftModel.from_pretrained(model, adapter, name)


def measure(model: Any, inputs: Dict[str, Any], adapters: Sequence[str], *, seconds: float) -> List[Row]:
    """Return the times of a forward of `inputs` under 1, 2, 4, … of `adapters`, in turns, as ratios to one of them."""
    import torch

    samples = next(value.shape[0] for value in inputs.values() if isinstance(value, torch.Tensor))
    most = min(len(adapters), samples)
    numbers = sorted({*(1 << power for power in range(most.bit_length())), most})
    with one_thread(), torch.no_grad():
        return [row for distinct in numbers for row in _ratios(model, inputs, adapters[:distinct], samples, seconds)]


def _ratios(model: Any, inputs: Dict[str, Any], adapters: Sequence[str], samples: int, seconds: float) -> Iterator[Row]:
    names = [adapters[sample % len(adapters)] for sample in range(samples)]
    parts = {name: [row for row, other in enumerate(names) if other == name] for name in adapters}

    def switch() -> None:
        for name, rows in parts.items():
            model.set_adapter(name)
            model(**_rows(inputs, rows, samples))

    def single() -> None:
        model.set_adapter(adapters[0])
        model(**inputs)

    def mixed() -> None:
        model(**inputs, adapter_names=names)

    ways: Dict[str, Callable[[], object]] = {"shim": mixed, "PEFT": mixed, "single": single, "switch": switch}
    ways["single again"] = single
    with shim_installed(True):
        failed = {way: why for way in ("PEFT", "switch") for why in [raised_by_upstream(ways[way])] if why}
        able = {way: function for way, function in ways.items() if way not in failed}
        found = interleaved(able, seconds=seconds, within={way: shim_uninstalled for way in able if way != "shim"})
    for way in able:
        if way != "single":
            ratio = found[way].median / found["single"].median
            yield Row(f"{len(adapters)} adapters: {way}", ratio, "x single", spread=spread({way: found[way]}))
    for way, why in failed.items():
        yield Row(f"{len(adapters)} adapters: {way}", float("nan"), "x single", spread=f"raises {why}")


def _rows(inputs: Dict[str, Any], rows: Sequence[int], samples: int) -> Dict[str, Any]:
    """Return the inputs of some samples."""

    def of(value: Any) -> Any:
        return value[list(rows)] if getattr(value, "shape", ())[:1] == (samples,) else value

    return {name: of(value) for name, value in inputs.items()}
