"""Tell a tracer which module runs: for its messages, and for experts, which are row-wise by contract."""

from __future__ import annotations

import functools
import threading
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, Mapping, Optional, Sequence, Set, Tuple

import torch

from shim.batch import MixedBatch
from shim.graphs import no_compilation
from shim.modules import named_modules
from shim.routing.layers import is_experts, row_arguments, tensors_of
from shim.routing.other_threads import hand_overs_noted
from shim.routing.stand_ins import StandIn
from shim.routing.tracer import Tracer


class _Here(threading.local):
    """What is told of modules on the running thread."""

    tellers: Tuple[_Teller, ...] = ()


_HERE = _Here()


@contextmanager
def modules_told(tracer: Tracer, batch: MixedBatch) -> Iterator[None]:
    """Let `tracer` know what runs on this thread, inside the block.

    A module whose class is called `...Experts` treats each token by itself: which expert was hit is control, not
    data. Where no adapted layer lies in it, it is not followed at all: its output has the rows of its input.

    Not by global hooks: torch goes over those when a call raises, and another thread that adds one just then has the
    call raise "OrderedDict mutated during iteration" for its own error. Nor by hooks on the modules, which would be
    seen by whoever looks at them meanwhile.
    """
    before = _HERE.tellers
    with no_compilation(), _CALLS, hand_overs_noted(tracer.hand_over):
        _HERE.tellers = (*before, _Teller(tracer, batch))
        try:
            yield
        finally:
            _HERE.tellers = before


def _call(upstream: Callable[..., Any], module: Any, *args: Any, **kwargs: Any) -> Any:
    """Call `module`, and tell whoever follows this thread."""
    run = upstream
    for teller in _HERE.tellers:
        run = functools.partial(teller.tell, run, module)
    return run(*args, **kwargs)


_CALLS = StandIn(torch.nn.Module, "__call__", _call)


class _Teller:
    def __init__(self, tracer: Tracer, batch: MixedBatch) -> None:
        self._tracer = tracer
        self._names: Dict[int, str] = {id(module): name for name, module in named_modules(batch.model)}
        self._adapted: Set[str] = {name for name, _ in batch.layers}

    def tell(self, run: Callable[..., Any], module: Any, *args: Any, **kwargs: Any) -> Any:
        """Return what `run` does, which calls `module`, while the tracer knows that it is running."""
        name = self._names.get(id(module))
        if name is None:
            return run(*args, **kwargs)
        outer, self._tracer.module = self._tracer.module, name
        try:
            return self._run_experts(run, args, kwargs) if is_experts(module) else run(*args, **kwargs)
        finally:
            self._tracer.module = outer

    def _run_experts(self, run: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run experts, whose output's rows are those of their input."""
        rows = None
        if args and isinstance(args[0], torch.Tensor) and not self._holds_adapters(self._tracer.module):
            with self._tracer.paused():
                rows = self._rows(args)
        if rows is None:
            with self._tracer.bookkeeping():
                return run(*args, **kwargs)
        ids, by_data = rows
        with self._tracer.paused():
            output = run(*args, **kwargs)
            for _, tensor in tensors_of(output):
                wide = ids.view(*ids.shape, *[1] * (tensor.dim() - ids.dim()))
                self._tracer.store.write(tensor, wide.expand(tensor.shape), tainted=True, by_data=by_data)
        return output

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
