"""What a trace notes at every adapted layer: whose rows came in, and whose the output's are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Callable, Dict, List, Tuple

import torch

from shim.batch import MixedBatch
from shim.errors import Unroutable
from shim.modules import base_layer_of
from shim.routing.attention import rows_of_attention
from shim.routing.layers import Kind, kind_of, row_arguments, tensors_of
from shim.routing.lifting import Lifts, can_be_lifted, lifted
from shim.routing.owners import CONSTANT
from shim.routing.plan import PlannedCall
from shim.routing.row_wise import check_arguments, check_changes, check_rows
from shim.routing.tracer import Tracer
from shim.selection import BASE, Route, select


@dataclass(frozen=True)
class SeenCall:
    """A layer call as the trace met it: the ids of the rows, before they are settled."""

    planned: PlannedCall
    ids: Tuple[torch.Tensor, ...]


class Recorder(Route):
    """Notes the rows of every layer call while the base layer runs."""

    def __init__(self, tracer: Tracer, batch: MixedBatch, lifts: Lifts) -> None:
        self.calls: List[SeenCall] = []
        self._tracer = tracer
        self._names: Dict[int, str] = {id(layer): name for name, layer in batch.layers}
        self._base = replace(batch.selection(BASE), trains=False)  # a trace is under no_grad, and trains nothing
        self._lifts = lifts

    def asked(self, layer: Any) -> None:
        """Note that the layer's adapter decides something that is not its own forward."""
        self._tracer.obstacles.append(f"{self._names[id(layer)]} is asked for its adapter outside of its forward")

    def run_layer(self, layer: Any, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run the base layer and note whose rows it saw.

        Raises:
            Unroutable: its rows cannot be told, or it does more than make them.
        """
        call = self.planned(layer, args)
        args = lifted(call, args)
        check_arguments(call, args, kwargs)
        with select(self._base):
            if call.kind is Kind.OUTPUT:
                with self._tracer.noting_writes() as written:
                    output = forward(layer, *args, **kwargs)
                check_changes(call, layer, args, kwargs, written)
                with self._tracer.paused():
                    ids, by_data = self.rows_of_output(layer, call, args, output)
            else:
                with self._tracer.paused():
                    rows, by_data = self.rows_of_input(layer, call, args, kwargs)
                    if call.kind in (Kind.LINEAR, Kind.EMBEDDING, Kind.CONVOLUTION):
                        check_rows(call, layer, forward, args, kwargs)
                    output = forward(layer, *args, **kwargs)
                    ids = [rows]
            with self._tracer.paused():
                ids = [self._with_variables(one) for one in ids]
                self.calls.append(SeenCall(replace(call, by_data=by_data), tuple(ids)))
                self.write(call, ids, by_data, output)
        return output

    def planned(self, layer: Any, args: Any) -> PlannedCall:
        """Return what is known of a layer call before its rows are.

        Raises:
            Unroutable: it has no tensor as its first argument, so no rows.
        """
        name, kind = self._names[id(layer)], kind_of(layer)
        if args and isinstance(args[0], torch.Tensor):
            shape = tuple(args[0].shape)
            lifts = self._lifts.get(name, ()) if can_be_lifted(kind, shape) else ()
            return PlannedCall(name, kind, shape, (), lifted=lifts)
        if kind is Kind.OUTPUT:
            return PlannedCall(name, kind, (), ())
        raise Unroutable(f"{name} is called without a tensor as its first argument")

    def rows_of_input(self, layer: Any, call: PlannedCall, args: Any, kwargs: Any) -> Tuple[torch.Tensor, int]:
        """Return the ids of the input's rows, and who decides them.

        Raises:
            Unroutable: there is a tensor beside the input whose rows cannot be told.
        """
        store, lattice, x = self._tracer.store, self._tracer.lattice, args[0]
        if call.kind is Kind.ATTENTION:
            return rows_of_attention(call.layer, layer, args, kwargs, store, lattice)
        if call.lifted:
            shape = x.shape if call.kind is Kind.EMBEDDING else x.shape[:-1]
            return lattice.fresh(call.lifted[0], x.device).view(-1, *[1] * (len(shape) - 1)).expand(shape), 0
        lattice.tainted, lattice.by_data = store.tainted(x), store.by_data(x)
        ids = _rows(call.kind, x, store.ids(x), lattice)
        for key, value in row_arguments(args, kwargs).items():
            if value is x:
                continue
            beside = store.ids(value)
            if call.kind is not Kind.EXPERTS or beside is None or value.shape[: ids.dim()] != ids.shape:
                raise Unroutable(f"{call.layer} is called with a tensor beside its input ({key!r})")
            lattice.tainted = lattice.tainted or store.tainted(value)
            lattice.by_data = max(lattice.by_data, store.by_data(value))
            extra = _dense(lattice.reduce(beside, range(ids.dim(), value.dim())), ids)
            ids = _dense(lattice.join(ids, extra.reshape(ids.shape)), ids)
        return ids, lattice.by_data

    def rows_of_output(self, layer: Any, call: PlannedCall, args: Any, output: Any) -> Tuple[List[torch.Tensor], int]:
        """Return the ids of the rows of each output tensor, and who decides them.

        Raises:
            Unroutable: the layer's adapter reads rows of the input that are not the output's.
        """
        store, lattice = self._tracer.store, self._tracer.lattice
        found, decided = [], 0
        for _, tensor in tensors_of(output):
            lattice.tainted, lattice.by_data = store.tainted(tensor), store.by_data(tensor)
            dense = _dense(store.ids(tensor), tensor)
            ids = _dense(lattice.reduce(dense, [-1]), tensor).squeeze(-1) if tensor.dim() else dense
            if base_layer_of(layer) is not None and type(layer).__name__ != "ParamWrapper":
                ids = self._with_input(call, args[0], ids)
            found.append(ids)
            decided = max(decided, lattice.by_data)
        return found, decided

    def write(self, call: PlannedCall, ids: List[torch.Tensor], by_data: int, output: Any) -> None:
        """Give the output's elements the owners of their rows: one ids for all tensors, or one each."""
        tensors = [tensor for _, tensor in tensors_of(output)]
        if call.kind is Kind.ATTENTION:  # the weights beside its output have their rows along dim 0, always
            ids = [ids[0], *(ids[0].reshape(-1) for _ in tensors[1:])]
        for one, tensor in zip(ids if len(ids) == len(tensors) else ids * len(tensors), tensors):
            wide = one.view(*one.shape, *[1] * (tensor.dim() - one.dim()))
            self._tracer.store.write(tensor, wide.expand(tensor.shape), tainted=True, by_data=by_data)

    def _with_input(self, call: PlannedCall, x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Join the input's rows in: the adapter of a layer of unknown kind reads them."""
        store, lattice = self._tracer.store, self._tracer.lattice
        if x.shape == ids.shape:
            return _dense(lattice.join(ids, store.ids(x)), ids)
        if x.shape[:-1] == ids.shape:
            beside = lattice.reduce(store.ids(x), [-1])
            return ids if beside is None else _dense(lattice.join(ids, beside.squeeze(-1)), ids)
        raise Unroutable(f"{call.layer} turns {tuple(x.shape)} into rows of {tuple(ids.shape)}")

    def _with_variables(self, ids: torch.Tensor) -> torch.Tensor:
        """Give each row without an owner a variable: whatever needs the row will claim it."""
        ids = ids.clone()
        holes = ids == CONSTANT
        count = int(holes.sum())
        if count:
            ids[holes] = self._tracer.lattice.fresh(count, ids.device)
        return ids


def _rows(kind: Kind, x: torch.Tensor, ids: Any, lattice: Any) -> torch.Tensor:
    dense = _dense(ids, x)
    if kind is Kind.EMBEDDING:
        return dense
    if kind is Kind.CONVOLUTION:
        reduced: torch.Tensor = lattice.reduce(dense, range(1, x.dim()))
        return reduced.reshape(x.shape[0])
    last: torch.Tensor = lattice.reduce(dense, [-1])
    return last.squeeze(-1)


def _dense(ids: Any, tensor: torch.Tensor) -> torch.Tensor:
    if ids is None:
        return torch.zeros(tensor.shape, dtype=torch.int32, device=tensor.device)
    dense: torch.Tensor = ids
    return dense
