"""Tell a tracer which module runs: for its messages, and for experts, which are row-wise by contract."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

import torch

from shim.batch import MixedBatch
from shim.graphs import no_compilation
from shim.modules import named_modules
from shim.routing.layers import is_experts, row_arguments, tensors_of
from shim.routing.tracer import Tracer


@dataclass
class _Running:
    """A module that has begun: the name to go back to, and what is to be left when it ends."""

    outer: str
    left: ExitStack
    rows: Optional[Tuple[torch.Tensor, int]] = None


@contextmanager
def modules_told(tracer: Tracer, batch: MixedBatch) -> Iterator[None]:
    """Let `tracer` know what runs on its thread, inside the block.

    A module whose class is called `...Experts` treats each token by itself: which expert was hit is control, not
    data. Where no adapted layer lies in it, it is not followed at all: its output has the rows of its input.
    """
    teller = _Teller(tracer, batch)
    # Global, since hooks on the modules would be seen by whoever looks at them meanwhile; other threads' calls
    # leave at once.
    hooks = torch.nn.modules.module
    with no_compilation(), ExitStack() as stack:
        stack.callback(hooks.register_module_forward_pre_hook(teller.enter).remove)
        stack.callback(hooks.register_module_forward_hook(teller.leave).remove)
        yield


class _Teller:
    def __init__(self, tracer: Tracer, batch: MixedBatch) -> None:
        self._tracer = tracer
        self._names: Dict[int, str] = {id(module): name for name, module in named_modules(batch.model)}
        self._adapted: Set[str] = {name for name, _ in batch.layers}
        self._running: List[_Running] = []

    def enter(self, module: Any, args: Any) -> None:
        """Note that `module` begins."""
        if id(module) not in self._names or not self._tracer.is_here():
            return
        running = _Running(self._tracer.module, ExitStack())
        self._running.append(running)
        self._tracer.module = self._names[id(module)]
        if not is_experts(module):
            return
        if args and isinstance(args[0], torch.Tensor) and not self._holds_adapters(self._tracer.module):
            with self._tracer.paused():
                running.rows = self._rows(args)
        if running.rows is None:
            running.left.enter_context(self._tracer.bookkeeping())
        else:
            running.left.enter_context(self._tracer.paused())

    def leave(self, module: Any, _: Any, output: Any) -> None:
        """Note that `module` has ended."""
        if id(module) not in self._names or not self._tracer.is_here():
            return
        running = self._running.pop()
        self._tracer.module = running.outer
        running.left.close()
        if running.rows is not None:
            ids, by_data = running.rows
            with self._tracer.paused():
                for _, tensor in tensors_of(output):
                    wide = ids.view(*ids.shape, *[1] * (tensor.dim() - ids.dim()))
                    self._tracer.store.write(tensor, wide.expand(tensor.shape), tainted=True, by_data=by_data)

    def _rows(self, args: Any) -> Optional[Tuple[torch.Tensor, int]]:
        """Return the ids of the tokens, from the hidden states and the router's choice; None where unclear."""
        store, lattice = self._tracer.store, self._tracer.lattice
        shape = args[0].shape[:-1]
        tensors = list(row_arguments(args, {}).values())
        if any(tensor.shape[: len(shape)] != shape for tensor in tensors):
            return None
        lattice.tainted = any(map(store.tainted, tensors))
        lattice.by_data = max(map(store.by_data, tensors))
        joined = torch.zeros(shape, dtype=torch.int32, device=args[0].device)
        for tensor in tensors:
            ids = lattice.reduce(store.ids(tensor), range(len(shape), tensor.dim()))
            if ids is not None:
                joined = lattice.join(joined, ids.reshape(shape))  # type: ignore[assignment]
        return joined, lattice.by_data

    def _holds_adapters(self, name: str) -> bool:
        return any(layer == name or layer.startswith(name + ".") for layer in self._adapted)
