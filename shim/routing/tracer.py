"""Follow owner ids through every operation of one forward, and note whatever stands in the way of a proof.

Below autograd and `torch.nn`, so that it sees what ran rather than what was written. An operation without a
rule joins all that it read: it can be refused for want of a rule, never wrong.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, Dict, Iterator, List, Optional, Sequence, Set

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten

from shim.routing.data_rows import dim_taken, dims_sliced, places, puts_together
from shim.routing.mode import ThreadedDispatchMode
from shim.routing.operations import Operation, operation
from shim.routing.owners import BY_ADAPTERS, BY_INPUTS, Ids, Lattice
from shim.routing.reads import VERDICTS, Reads, decider_of_size, read_of, read_of_size, tells_which
from shim.routing.rules import elementwise, find_rule
from shim.routing.rules.op import Op
from shim.routing.storage import OwnerStore, address, overlaps_itself, storage_of

# What takes values out of torch without the dispatcher (`item` goes through it).
_ESCAPES = frozenset("tolist numpy __array__ __dlpack__ apply_ map_ map2_ data_ptr __getstate__ __reduce_ex__".split())
# Breakpoint: pytorch/pytorch#91414, torch 2.0: pickle goes by `untyped_storage`; before, it asks for `data_ptr`, and
# `storage` is what a trace itself finds memory by.
_ESCAPES |= {"storage", "untyped_storage"} if hasattr(torch.Tensor, "untyped_storage") else set()
# How other libraries find the memory on a GPU, a property.
_FOR_CUDA = torch.Tensor.__cuda_array_interface__
# What gives one number or one verdict, which cannot come back as a tensor with owners.
_SINGLE = frozenset({"item", *VERDICTS})
_SWEEP_EVERY = 64


class Tracer(ThreadedDispatchMode):
    """A dispatch mode that keeps the owner of every element up to date.

    store: the ids. lattice: how they join. obstacles: what makes every answer unproven (a value that adapters
    change was read by Python, memory was filled unseen), in words. mixers: what made a value depend on several
    samples, in words, first one first. reads: what Python read of the inputs, so that shapes alone do not decide the
    layout. given: the addresses of the inputs. module: the name of the module that runs, for messages.
    """

    def __init__(self, samples: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lattice = Lattice(samples)
        self.store = OwnerStore(self.lattice)
        self.obstacles: List[str] = []
        self.mixers: List[str] = []
        self.without_rule: Dict[str, int] = {}
        self.reads = Reads.NOTHING
        self.given: Set[int] = set()
        self.module = ""
        self._bookkeeping = 0
        self._paused = False
        self._seen = 0
        self._written: Optional[Set[int]] = None
        self._unwritten: Dict[int, Any] = {}
        self._escapes = _Escapes(self)

    def __enter__(self) -> Any:
        """Follow what runs inside the block, on this thread."""
        entered = super().__enter__()
        self._escapes.__enter__()  # type: ignore[no-untyped-call]
        return entered

    def __exit__(self, *error: Any) -> None:
        """Stop following."""
        self._escapes.__exit__(*error)  # type: ignore[no-untyped-call]
        super().__exit__(*error)

    @contextmanager
    def bookkeeping(self) -> Iterator[None]:
        """Take integers for control rather than data inside the block: which experts were hit, a range check."""
        self._bookkeeping += 1
        try:
            yield
        finally:
            self._bookkeeping -= 1

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Follow nothing inside the block."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    @contextmanager
    def noting_writes(self) -> Iterator[Set[int]]:
        """Yield the addresses of the memory that operations inside the block write over."""
        before, self._written = self._written, set()
        inside = self._written
        try:
            yield inside
        finally:
            self._written = None if before is None else before | inside

    def escape(self, tensor: torch.Tensor, how: str) -> None:
        """Note that Python reads the values of `tensor`."""
        if self._paused or self._bookkeeping or not self.store.knows(tensor):
            return
        if self.store.tainted(tensor):
            self.obstacles.append(f"{how}() of a value that adapters change{self._where()}")
        elif tensor.is_floating_point() and how not in _SINGLE:  # it may come back in another order
            self.obstacles.append(f"{how}() of values that may come back unseen{self._where()}")
        else:
            is_given = address(tensor) in self.given
            compared = self.store.compared(tensor)
            read = read_of(tensor, how, self.store.ids(tensor), self.lattice.samples, is_given, compared)
            self.reads = max(self.reads, read)

    def take(self, tensor: torch.Tensor, dims: Sequence[int], how: str) -> None:
        """Note that places along `dims` of `tensor` are taken: where adapters' values put rows, others decide which."""
        if self._paused or self._bookkeeping or not dims or self.store.by_data(tensor) != BY_ADAPTERS:
            return
        # Rows are put together along dim 0, and may happen to be of one sample.
        if (0 in dims and self.store.packed(tensor)) or self.lattice.several(self.store.ids(tensor), dims):
            self.obstacles.append(f"{how} takes some of the rows that data has put together{self._where()}")

    def hand_over(self) -> None:
        """Note that work is handed to another thread."""
        if not self._paused:
            self.obstacles.append(f"work is handed to another thread, where no trace follows it{self._where()}")

    def _has_several_owners(self, tensor: torch.Tensor) -> bool:
        return self.lattice.several(self.store.ids(tensor), range(tensor.dim()))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run `func` and give its outputs their owners."""
        kwargs = kwargs or {}
        if self._paused:
            return func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            known = operation(func)
            if known.composite and find_rule(known.name) is None:
                with self._dispatch_alone():
                    output = func.decompose(*args, **kwargs)
                if output is not NotImplemented:
                    return output
            output = func(*args, **kwargs)
            self._follow(known, func, args, kwargs, output)
        return output

    @contextmanager
    def _dispatch_alone(self) -> Iterator[None]:
        """Follow what runs inside the block, which is below python: torch 1.13 would ask for the whole again."""
        super().__enter__()
        try:
            yield
        finally:
            super().__exit__(None, None, None)

    def _follow(self, known: Operation, func: Any, args: Any, kwargs: Any, output: Any) -> None:
        inputs = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, torch.Tensor)]
        self._seen += 1
        if self._seen % _SWEEP_EVERY == 0:
            self.store.sweep()
        if self._meets_sparse(known, inputs, output):
            return
        if known.between_ranks and not any(map(self.store.knows, inputs)):  # weights, written unseen
            for tensor in inputs:
                self._unwritten.pop(address(tensor), None)
            return
        if any(hasattr(tensor, "device_mesh") for tensor in inputs):
            if not self.obstacles:
                self.obstacles.append(f"{known.name} is computed by several ranks{self._where()}")
            return
        if self._written is not None:
            self._written.update(map(address, known.written(args, kwargs)))
        self._watch_memory(known, inputs, output, args, kwargs)
        self._watch_size(known, args)
        self._watch_places(known, args, kwargs)
        if known.view or not any(map(self.store.knows, inputs)):
            return
        outputs = [leaf for leaf in tree_flatten(output)[0] if isinstance(leaf, torch.Tensor)]
        written = known.written(args, kwargs)
        if not outputs and not written:
            if not known.metadata:
                for tensor in inputs:
                    self.escape(tensor, known.python_name)
            return
        if not written:
            shared = {address(tensor) for tensor in inputs}
            if all(address(tensor) in shared for tensor in outputs):
                return
        op = Op(func, known.name, args, kwargs, outputs, written, self.lattice, self.store.ids, self.store.by_data)
        self._give_owners(known, op, inputs)

    def _give_owners(self, known: Operation, op: Op, inputs: List[Any]) -> None:
        lattice, store = self.lattice, self.store
        tainted = any(map(store.tainted, inputs))
        control = self._bookkeeping and not any(out.is_floating_point() for out in op.outputs)
        lattice.tainted = tainted and not control
        lattice.decider = BY_ADAPTERS if any(map(store.tainted, _deciders(inputs))) else BY_INPUTS
        lattice.by_data = max(map(store.by_data, inputs))
        lattice.compared = any(map(store.compared, inputs))
        mixed_before = lattice.tainted and any(map(store.mixed, inputs))
        results = self._apply(known, op)
        if lattice.by_data and known.anchors and self._decided_without_data(known, op, inputs, results):
            if lattice.tainted and lattice.by_data == BY_INPUTS:
                # These inputs put each row beside its own sample's; others may not, and mix what adapters change.
                self.reads = Reads.WORKED_OUT
            lattice.by_data = 0
        packed = not places(known.name) and any(map(store.packed, inputs))
        packed = packed or puts_together(known.name, op.args, self._has_several_owners)
        compared = lattice.compared
        for number, (tensor, ids) in enumerate(zip(op.results, results)):
            which = tells_which(known.name, number) and self._has_several_owners(op.args[0])
            store.write(
                tensor, ids, tainted=tainted, by_data=lattice.by_data, packed=packed, compared=compared or which
            )
        if lattice.tainted and not mixed_before and any(map(store.mixed, op.outputs)):
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs)
            self.mixers.append(f"{known.name} on {shapes}{self._where()}")

    def _apply(self, known: Operation, op: Op) -> List[Ids]:
        """Return the ids of everything that was written: by the operation's rule, or by joining all it read."""
        rule = find_rule(known.name) or (elementwise if known.pointwise else None)
        # What an operation reads of a place that it writes to several times is its kernel's own affair.
        by_element = rule is elementwise or known.name == "copy"
        if rule is not None and (by_element or not any(map(overlaps_itself, op.written))):
            # An error tells of a form of the operation that the rule does not cover.
            with suppress(RuntimeError, IndexError, TypeError, ValueError, AttributeError, AssertionError):
                return op.fitted(rule(op))
        self.without_rule[known.name] = self.without_rule.get(known.name, 0) + 1
        return op.fitted(op.join(*(op.total(op.ids(tensor)) for tensor in op.read())))

    def _decided_without_data(self, known: Operation, op: Op, inputs: List[Any], results: List[Ids]) -> bool:
        """Whether the operands whose owners no data decides give the very same owners by themselves."""
        store = self.store
        if not any(store.knows(tensor) and not store.by_data(tensor) for tensor in inputs):
            return False
        before = self.lattice.checkpoint()
        hidden = replace(op, lookup=self._ids_without_data, by_data=lambda _: 0)
        try:
            alone = self._apply(known, hidden)
        finally:
            self.lattice.rewind(before)
        first, other = results[0], alone[0]
        return first is not None and other is not None and torch.equal(first, other) and bool(other.all())

    def _ids_without_data(self, tensor: torch.Tensor) -> Ids:
        return None if self.store.by_data(tensor) else self.store.ids(tensor)

    def _meets_sparse(self, known: Operation, inputs: Sequence[Any], output: Any) -> bool:
        """Note values with owners that meet a tensor whose memory has no places, and return whether there is one."""
        tensors = [leaf for leaf in tree_flatten(output)[0] if isinstance(leaf, torch.Tensor)]
        if all(tensor.layout is torch.strided for tensor in [*inputs, *tensors]):
            return False
        if any(tensor.layout is torch.strided and self.store.knows(tensor) for tensor in inputs):
            self.obstacles.append(f"{known.name} makes or reads a sparse tensor{self._where()}")
        return True

    def _watch_size(self, known: Operation, args: Sequence[Any]) -> None:
        """Note what Python learns of values by the size of an output."""
        decider = None if self._bookkeeping else decider_of_size(known.name, args)
        if decider is not None and not self.store.tainted(decider):
            read = read_of_size(decider, self.store.ids(decider), self.lattice.samples)
            self.reads = max(self.reads, read)

    def _watch_places(self, known: Operation, args: Any, kwargs: Any) -> None:
        """Note rows that are taken by their places where data has put them together."""
        dim = dim_taken(known.name, args, kwargs, self.store.knows)
        if dim is not None:
            self.take(args[0], [dim], known.name)

    def _watch_memory(self, known: Operation, inputs: Sequence[Any], output: Any, args: Any, kwargs: Any) -> None:
        """Note memory that an operation reads though no operation wrote it: a raw kernel filled it unseen."""
        if known.allocates:
            storage = storage_of(output)
            if storage.nbytes():
                self._unwritten[int(storage._cdata)] = StorageWeakRef(storage)
        elif self._unwritten and not known.view and not known.ignores_values:
            overwritten = {address(tensor) for tensor in known.written(args, kwargs)} if not known.updates else set()
            for tensor in inputs:
                reference = self._unwritten.pop(address(tensor), None)
                unseen = reference is not None and not reference.expired() and address(tensor) not in overwritten
                # `baddbmm(empty, a, b, beta=0)` reads nothing of its first argument.
                if unseen and not (kwargs.get("beta") == 0 and tensor is args[0]):
                    self.obstacles.append(f"{known.name} reads memory that no operation of torch wrote{self._where()}")

    def _where(self) -> str:
        return f" in {self.module}" if self.module else ""


class _Escapes(TorchFunctionMode):
    """Tell the tracer of values that leave torch: `tolist` and `numpy` never reach the dispatcher."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self._tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        kwargs = kwargs or {}
        if name == "__get__" and getattr(func, "__self__", None) is _FOR_CUDA:
            name = "data_ptr"
        if name in _ESCAPES and args and isinstance(args[0], torch.Tensor):
            self._tracer.escape(args[0], name)
        if name == "__getitem__":
            self._tracer.take(args[0], dims_sliced(args[1], args[0].dim()), "a slice")
        if name == "one_hot":  # it reads the least and the greatest only to check them
            with self._tracer.bookkeeping():
                return func(*args, **kwargs)
        return func(*args, **kwargs)


def _deciders(inputs: Sequence[Any]) -> Sequence[Any]:
    """Return the tensors that an index would be among: those of integers, or all where there are none."""
    return [one for one in inputs if not one.is_floating_point() and not one.is_complex()] or inputs
