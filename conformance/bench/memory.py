"""Memory against the number of loaded adapters: PEFT, the shim, and a full copy of the model for each task.

Each number of adapters is measured in a process of its own, as the memory that the system says it has (Linux): what is
held after calls, and the most that was held in them. What a process needs anyway is in every total, so that the price
of an adapter is the slope.
"""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Sequence

from conformance.bench import llama
from conformance.bench.measurements import Row, measuring
from conformance.shim_switch import packed, shim_installed

MIB = 2.0**20
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Case:
    """A Llama with `loaded` adapters; calls are of 32 samples, under as many adapters as there are, 32 at most."""

    layers: int
    width: int
    rank: int
    loaded: int


@dataclass(frozen=True)
class Found:
    """Bytes. model: its base weights. peft: the process with the adapters loaded, after calls under one of them.

    shim, shim_peak: the same after mixed calls (forward and generate), and the most in them, less the most in PEFT's.
    packed, packed_peak: likewise, the adapters packed.
    """

    model: int
    peft: int
    shim: int
    shim_peak: int
    packed: int
    packed_peak: int


def counts(quick: bool) -> List[int]:
    """Return the numbers of loaded adapters to measure."""
    return [2, 32] if quick else [1, 2, 10, 100, 1000]


def measure(*, quick: bool, layers: int = 2, width: int = 512, rank: int = 8, of: Sequence[int] = ()) -> List[Row]:
    """Return totals for each number of adapters (or those of `of`), and what one adapter more takes.

    Raises:
        OSError: the system does not say what memory a process has.
    """
    found = {loaded: _in_a_process(Case(layers, width, rank, loaded)) for loaded in of or counts(quick)}
    return [*_totals(found), *_slopes(found)]


def _totals(found: Dict[int, Found]) -> Iterator[Row]:
    for loaded, one in found.items():
        yield Row(f"{loaded} adapters loaded: PEFT", one.peft / MIB, "MiB")
        yield Row(f"{loaded} adapters loaded: shim", one.shim / MIB, "MiB")
        yield Row(f"{loaded} adapters loaded: shim, more at its peak than PEFT", one.shim_peak / MIB, "MiB")
        yield Row(f"{loaded} adapters loaded: shim, packed", one.packed / MIB, "MiB")
        yield Row(f"{loaded} adapters loaded: shim, packed, more at its peak than PEFT", one.packed_peak / MIB, "MiB")
        yield Row(f"{loaded} adapters loaded: a copy of the model for each", loaded * one.model / MIB, "MiB")


def _slopes(found: Dict[int, Found]) -> Iterator[Row]:
    several = [loaded for loaded in found if loaded > 1]  # one adapter is no mixed batch: nothing is routed
    if len(several) < 2:
        return
    fewest, most = min(several), max(several)

    def slope(total: Callable[[Found], float]) -> float:
        return (total(found[most]) - total(found[fewest])) / (most - fewest)

    peft = slope(lambda one: one.peft)
    yield Row("one adapter more: PEFT", peft / MIB, "MiB")
    yield Row("one adapter more: shim", slope(lambda one: one.shim) / peft, "x PEFT", 1.05)
    yield Row("one adapter more: shim at its peak", slope(lambda one: one.peft + one.shim_peak) / peft, "x PEFT")
    yield Row("one adapter more: shim, packed", slope(lambda one: one.packed) / peft, "x PEFT", 1.05)
    packed_peak = slope(lambda one: one.peft + one.packed_peak)
    yield Row("one adapter more: shim, packed, at its peak", packed_peak / peft, "x PEFT", 1.05)
    yield Row("one adapter more: a copy of the model", found[most].model / peft, "x PEFT")


def _in_a_process(case: Case) -> Found:
    measuring(f"{case.loaded} adapters loaded")
    code = f"from conformance.bench.memory import Case, tell; tell({case!r})"
    output = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True).stdout
    return Found(**json.loads(output.splitlines()[-1]))


def tell(case: Case) -> None:
    """Print what `case` takes in this process, as JSON."""
    import torch

    torch.set_num_threads(1)
    model = llama.build(case.layers, case.width, case.loaded, case.rank)
    batch, names = llama.inputs(32, 16), llama.names(32, min(32, case.loaded))
    base = sum(p.numel() * p.element_size() for name, p in model.named_parameters() if "lora_" not in name)

    def call(**more: List[str]) -> int:
        """Make the calls twice and return the most memory that the second took."""
        for _ in range(2):
            _forget_peak()
            model(**batch, **more)
            model.generate(**batch, max_new_tokens=8, do_sample=False, pad_token_id=0, eos_token_id=None, **more)
        return _bytes("VmHWM")

    with torch.no_grad():
        peft_peak = call()
        peft = _held()
        with shim_installed(True):
            shim_peak = call(adapter_names=names)
            shim = _held()
            packed(model)
            packed_peak = call(adapter_names=names)
    peaks = max(0, shim_peak - peft_peak), max(0, packed_peak - peft_peak)
    print(json.dumps(asdict(Found(base, peft, shim, peaks[0], _held(), peaks[1]))))


def _forget_peak() -> None:
    """Begin a new peak, from what is held: freed memory that the allocator keeps would hide what a call takes."""
    _held()
    _CLEAR.write_text("5")


def _held() -> int:
    """Return the bytes in use; glibc's allocator gives back first what is free."""
    gc.collect()
    with suppress(OSError, AttributeError):  # another libc
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return _bytes("VmRSS")


def _bytes(field: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field + ":"))
    return 1024 * int(line.split()[1])
