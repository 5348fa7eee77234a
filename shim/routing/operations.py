"""What the schema of an ATen operation says of it, looked up once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Sequence, Tuple

import torch

from shim.routing.rules.pointwise import POINTWISE

_METADATA = frozenset(
    "size stride storage_offset dim numel is_same_size is_contiguous is_pinned is_non_overlapping_and_dense "
    "sym_size sym_stride sym_numel sym_storage_offset layout is_set_to _has_same_storage_numel "
    # These read values only to raise an error.
    "_assert_async _functional_assert_async _assert_tensor_metadata _linalg_check_errors".split()
)
# In-place forms that are pointwise and yet need nothing of what they write over.
_FILLS = frozenset("fill copy zero masked_fill uniform normal bernoulli exponential".split())
_SCALAR_READS = {"_local_scalar_dense": "item"}
# Where a structural operand can settle an owner that data had decided (a residual sum, an attention over rows).
_ANCHORS = frozenset(
    "mm bmm addmm baddbmm _softmax masked_fill where masked_scatter _scaled_dot_product_flash_attention_for_cpu "
    "_scaled_dot_product_flash_attention _scaled_dot_product_efficient_attention "
    "_scaled_dot_product_cudnn_attention _scaled_dot_product_attention_math".split()
)

# Operations between ranks, and on memory that FSDP2 gathers weights in.
_BETWEEN_RANKS = frozenset("c10d _c10d_functional c10d_functional fsdp".split())
# They write to their running statistics, of which their schema says nothing.
_WRITE_UNSAID = frozenset("native_batch_norm cudnn_batch_norm miopen_batch_norm".split())


@dataclass(frozen=True)
class Operation:
    """An overload of an ATen operation.

    name: without overload and without the underscore of the in-place form. view: its output shares memory with
    its input. writes: the positions of the arguments that it writes to, by name. pointwise: each element of the
    output is made of the elements at its own position. composite: it is made of other operations. in_place: it
    writes to the argument that it returns. between_ranks: it gathers or reduces what other processes hold.
    """

    name: str
    view: bool
    writes: Tuple[Tuple[int, str], ...]
    pointwise: bool
    composite: bool
    in_place: bool
    between_ranks: bool

    @property
    def allocates(self) -> bool:
        """Whether its output is memory that nobody has written yet."""
        return self.name.startswith(("empty", "new_empty"))

    @property
    def ignores_values(self) -> bool:
        """Whether it asks its tensor arguments for shape and dtype only."""
        return self.name.endswith("_like") or self.name.startswith("new_") or self.metadata

    @property
    def updates(self) -> bool:
        """Whether it makes what it writes of what was there, all over."""
        return self.in_place and self.pointwise and self.name not in _FILLS

    @property
    def metadata(self) -> bool:
        """Whether it returns what is known without the values."""
        return self.name in _METADATA

    @property
    def anchors(self) -> bool:
        """Whether operands whose owner is known without data may settle those that data decided."""
        return self.pointwise or self.name in _ANCHORS

    @property
    def python_name(self) -> str:
        """What a user calls it."""
        return _SCALAR_READS.get(self.name, self.name)

    def written(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> List[torch.Tensor]:
        """Return the tensors that a call with these arguments writes to."""
        found: List[torch.Tensor] = []
        for index, name in self.writes:
            value = args[index] if index < len(args) else kwargs.get(name)
            found += [one for one in (value if isinstance(value, (list, tuple)) else [value]) if one is not None]
        return found


_KNOWN: Dict[Any, Operation] = {}


def operation(func: Any) -> Operation:
    """Return what is known of the overload `func`."""
    known = _KNOWN.get(func)
    if known is None:
        known = _KNOWN[func] = _read(func)
    return known


def _read(func: Any) -> Operation:
    schema = func._schema
    packet: str = schema.name.split("::")[-1]
    writes = tuple(
        (index, argument.name)
        for index, argument in enumerate(schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    )
    if packet in _WRITE_UNSAID:
        running = ("running_mean", "running_var")
        writes = tuple((index, one.name) for index, one in enumerate(schema.arguments) if one.name in running)
    resized = getattr(torch, "Tag", None) is not None and torch.Tag.inplace_view in func.tags
    aliases = any(one.alias_info is not None and not one.alias_info.is_write for one in schema.returns)
    in_place = bool(writes) and packet.endswith("_") and not packet.endswith("__")
    name = packet[:-1] if in_place else packet
    # Breakpoint: pytorch/pytorch#90029, torch 2.0: the tag `pointwise`; before it the list alone.
    tagged = hasattr(torch.Tag, "pointwise") and torch.Tag.pointwise in func.tags
    composite = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")
    return Operation(
        name=name,
        view=resized or (aliases and not writes),
        writes=() if resized else writes,
        pointwise=tagged or name in POINTWISE,
        composite=bool(composite),
        in_place=in_place,
        between_ranks=schema.name.split("::")[0] in _BETWEEN_RANKS,
    )
