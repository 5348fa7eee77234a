"""What owners an operation's output must have, found by changing one sample's data at a time and running it again."""

import math
import warnings
from dataclasses import dataclass
from typing import Callable, Optional, Sequence, Tuple

import torch
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from torch.utils._pytree import tree_flatten

from shim.routing import tracer as tracing
from shim.routing.owners import MIXED
from shim.routing.rules import find_rule
from shim.routing.tracer import Tracer

SAMPLES = 3
aten = torch.ops.aten


@dataclass(frozen=True)
class Operand:
    """A tensor that an operation reads: its shape, where the samples lie in it, and how to draw its elements.

    Written as `"B 3 4 : i5 !"`: three dimensions, the samples in the first, integers below 5; `!` says that other
    owners than these ask another question (an index across samples is taken to stay among its own).
    Kinds: n (normal, the default), p (probabilities), b (booleans), i and an end, z (complex), u and an end
    (integers that go up along the last dimension).
    """

    shape: Tuple[int, ...]
    samples_in: Optional[int]
    kind: str
    fixed: bool

    @classmethod
    def read(cls, text):
        sizes, _, kind = text.partition(":")
        words = sizes.split()
        shape = tuple(SAMPLES if word == "B" else int(word) for word in words)
        kind, _, fixed = kind.strip().partition("!")
        return cls(shape, words.index("B") if "B" in words else None, kind.strip() or "n", fixed or text.endswith("!"))

    def draw(self, shape, generator, scale=1.0):
        """Return elements of this kind."""
        if self.kind.startswith(("i", "u")):
            drawn = torch.randint(0, int(self.kind[1:]), shape, generator=generator)
            return drawn.sort(-1)[0] if self.kind[0] == "u" else drawn
        if self.kind == "b":
            return torch.rand(shape, generator=generator) < 0.5
        if self.kind == "p":
            return torch.rand(shape, generator=generator, dtype=torch.float64) * 0.98 + 0.01
        dtype = torch.complex128 if self.kind == "z" else torch.float64
        return torch.randn(shape, generator=generator, dtype=dtype) * scale

    def owners(self):
        """Return the declared owners, or None where there are none."""
        if self.samples_in is None:
            return None
        along = [-1 if dim == self.samples_in else 1 for dim in range(len(self.shape))]
        return torch.arange(1, SAMPLES + 1, dtype=torch.int32).view(along).expand(self.shape)


class Case:
    """A function of tensors that runs the operations `names`, on `operands`.

    samples_in: the dimension of each output that holds the samples: None for an output that nobody owns, "mixed"
    for one that all do, "any" for one with owners of all kinds. A single value stands for all outputs.
    """

    def __init__(self, names, function, *operands, samples_in=0, without_rule=()):
        self.names = tuple(names.split())
        self.function = function
        self.operands = [Operand.read(one) for one in operands]
        self.samples_in = samples_in
        self.without_rule = set(without_rule)

    def __repr__(self):
        shapes = ["x".join(map(str, one.shape)) for one in self.operands]
        return "-".join([*self.names, *shapes])

    @property
    def runs_here(self):
        """Whether the installed torch has the operations, for the processor."""
        if not all(hasattr(aten, name) or hasattr(aten, name + "_") for name in self.names):
            return False
        generator = torch.Generator().manual_seed(0)
        try:
            run(self.function, [operand.draw(operand.shape, generator) for operand in self.operands])
        except (RuntimeError, TypeError):
            return False
        return True


@dataclass
class Traced:
    """Outputs with their ids, and the names of the operations whose rule was asked for."""

    outputs: Sequence[torch.Tensor]
    ids: Sequence[torch.Tensor]
    names: set
    tracer: Tracer


def trace(function: Callable, tensors, owners, samples=SAMPLES, tainted=True) -> Traced:
    """Run `function` on `tensors`, whose elements have `owners` (None: constant), under a tracer."""
    tracer = Tracer(samples)
    tensors = [tensor.clone() for tensor in tensors]
    for tensor, ids in zip(tensors, owners):
        if ids is not None:
            tracer.store.write(tensor, ids, tainted=tainted)
    names = set()

    def noted(name):
        names.add(name)
        return find_rule(name)

    before, tracing.find_rule = tracing.find_rule, noted
    try:
        torch.manual_seed(0)
        with torch.no_grad(), tracer, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outputs = tensors_in(function(*tensors))
    finally:
        tracing.find_rule = before
    ids = [ids_of(tracer, output) for output in outputs]
    return Traced(outputs, ids, names, tracer)


def ids_of(tracer, tensor):
    """Return the ids of `tensor`, constants written out."""
    ids = tracer.store.ids(tensor)
    return torch.zeros(tensor.shape, dtype=torch.int32) if ids is None else ids.clone()


def tensors_in(result):
    """Return the tensors of a result, however nested."""
    return [leaf for leaf in tree_flatten(result)[0] if isinstance(leaf, torch.Tensor)]


def run(function, tensors):
    """Run `function` on copies of `tensors` as it is, with the same random numbers every time."""
    torch.manual_seed(0)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tensors_in(function(*(tensor.clone() for tensor in tensors)))


def changed(before, after):
    """Return where two outputs differ."""
    same = (before == after) | ((before != before) & (after != after))
    return ~same


def assert_sound(traced: Traced, function, operands, tensors, owners, generator, samples=SAMPLES):
    """Assert that what one sample's data changes has that sample's id, or is mixed."""
    plain = run(function, tensors)
    for sample in range(1, samples + 1):
        for scale in (1.0, 1e-3, 1e3):
            moved = [
                tensor
                if ids is None
                else torch.where(ids == sample, operand.draw(tensor.shape, generator, scale), tensor)
                for operand, tensor, ids in zip(operands, tensors, owners)
            ]
            try:
                again = run(function, moved)
            except RuntimeError:
                continue  # numbers that the operation does not take (a singular matrix)
            for output, other, ids in zip(plain, again, traced.ids):
                assert output.shape == other.shape
                wrong = changed(output, other) & (ids != sample) & (ids != MIXED)
                assert not bool(wrong.any()), f"sample {sample} reaches elements of {ids[wrong].unique().tolist()}"


def assert_precise(case: Case, traced: Traced):
    """Assert that each output has exactly the owners that the case declares."""
    declared = case.samples_in
    each = declared if isinstance(declared, (list, tuple)) else [declared] * len(traced.outputs)
    assert len(each) == len(traced.outputs)
    for dim, output, ids in zip(each, traced.outputs, traced.ids):
        if dim == "any":
            continue
        if dim == "mixed":
            expected = torch.full_like(ids, MIXED)
        elif dim is None:
            expected = torch.zeros_like(ids)
        else:
            along = [-1 if at == dim % output.dim() else 1 for at in range(output.dim())]
            expected = torch.arange(1, SAMPLES + 1, dtype=torch.int32).view(along).expand(output.shape)
        assert torch.equal(ids, expected), ids


def check_declared(case: Case):
    """Check a case where its samples lie as it declares: exact owners, none too few, each operation by its rule."""
    generator = torch.Generator().manual_seed(1)
    tensors = [operand.draw(operand.shape, generator) for operand in case.operands]
    owners = [operand.owners() for operand in case.operands]
    traced = trace(case.function, tensors, owners)
    assert set(traced.tracer.without_rule) == case.without_rule, traced.tracer.without_rule
    assert set(case.names) <= traced.names, traced.names
    assert_precise(case, traced)
    assert_sound(traced, case.function, case.operands, tensors, owners, generator)


@st.composite
def layouts(draw, operand, seed):
    """Draw a tensor, owners for its elements, and a function that makes the operand of it, a view of some kind."""
    shape, count = operand.shape, len(operand.shape)
    kind = draw(st.sampled_from(["plain", "permuted", "sliced", "expanded", "overlapping"]))
    if count == 0 or math.prod(shape) == 0 or operand.kind[0] == "u" or operand.fixed:
        kind = "plain"
    if kind == "permuted":
        order = draw(st.permutations(range(count)))
        base = [shape[dim] for dim in order]
        back = [order.index(dim) for dim in range(count)]
        return base, lambda tensor: tensor.permute(back)
    if kind == "sliced":
        dim = draw(st.integers(0, count - 1))
        base = [size * 2 + 1 if at == dim else size for at, size in enumerate(shape)]
        return base, lambda tensor: tensor.narrow(dim, 1, 2 * shape[dim])[
            (slice(None),) * dim + (slice(None, None, 2),)
        ]
    if kind == "expanded":
        dim = draw(st.integers(0, count - 1))
        base = [1 if at == dim else size for at, size in enumerate(shape)]
        return base, lambda tensor: tensor.expand(shape)
    if kind == "overlapping":
        base = [sum(size - 1 for size in shape) + 1]
        return base, lambda tensor: tensor.as_strided(shape, [1] * count)
    return list(shape), lambda tensor: tensor


@st.composite
def owned(draw, operand, shape, seed):
    """Draw owners for a tensor of `shape`: none, each element's own, or a dimension's."""
    generator = torch.Generator().manual_seed(seed)
    if operand.fixed:
        return operand.owners() if draw(st.booleans()) else None
    kind = draw(st.sampled_from(["none", "elements", "dimension", "dimension"]))
    if kind == "none":
        return None
    if kind == "elements" or not shape:
        return torch.randint(0, SAMPLES + 1, shape, generator=generator, dtype=torch.int32)
    dim = draw(st.integers(0, len(shape) - 1))
    first = draw(st.integers(0, 1))
    ids = (torch.arange(shape[dim], dtype=torch.int32) + first) % SAMPLES + 1 - first
    return ids.view([-1 if at == dim else 1 for at in range(len(shape))]).expand(shape)


def check_any(case: Case, data, seed):
    """Check that a case is sound whatever the owners and the strides of its operands."""
    drawn = [data.draw(layouts(operand, seed), label="layout") for operand in case.operands]
    owners = [
        data.draw(owned(operand, tuple(shape), seed), label="owners")
        for operand, (shape, _) in zip(case.operands, drawn)
    ]
    generator = torch.Generator().manual_seed(seed)
    tensors = [operand.draw(tuple(shape), generator) for operand, (shape, _) in zip(case.operands, drawn)]

    def function(*bases):
        result = case.function(*(view(base) for (_, view), base in zip(drawn, bases)))
        return [*tensors_in(result), *bases]

    try:
        first, second = run(function, tensors), run(function, tensors)
    except RuntimeError:
        assume(False)  # an operation that refuses such memory
    # Kernels that pick among equals, or read what nobody wrote, say nothing.
    assume(not any(bool(changed(one, other).any()) for one, other in zip(first, second)))
    traced = trace(function, tensors, owners)
    assert_sound(traced, function, case.operands, tensors, owners, generator)


def any_owners(examples=12):
    """Decorate a test of a case with draws of its owners and strides."""

    def decorate(test):
        drawn = given(data=st.data(), seed=st.integers(0, 2**16))(test)
        return settings(max_examples=examples, deadline=None, database=None, phases=[Phase.generate, Phase.shrink])(
            drawn
        )

    return decorate
