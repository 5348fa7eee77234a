"""Rules of operations that move elements, against brute force."""

import pytest
import torch
from torch.nn import functional as F

from tests.shim.routing.brute_force import Case, any_owners, check_any, check_declared

aten = torch.ops.aten

CASES = [
    Case("cat", lambda x, y: torch.cat([x, y], 1), "B 2", "B 3"),
    Case("cat", lambda x, y: torch.cat([x, y, x], 0)[2:5], "2 B", "3 B", samples_in=1),
    Case("stack", lambda x, y: torch.stack([x, y], 1), "B 2", "B 2"),
    Case("block_diag", lambda x: aten.block_diag([x, x]).amax(1)[:3], "B 2"),
    Case("roll", lambda x: x.roll(1, 1), "B 4"),
    Case("flip", lambda x: x.flip(1), "B 4"),
    Case("rot90", lambda x: x.rot90(1, (1, 2)), "B 2 3"),
    Case("repeat", lambda x: x.repeat(1, 3), "B 2"),
    Case("tril", lambda x: x.tril(1)[:, :, :1], "B 3 3"),
    Case("tril", lambda x: x.tril_(1)[:, :, :1], "B 3 3"),
    Case("triu", lambda x: x.triu_(-2), "B 3 3"),
    Case("diag_embed", lambda x: x.diag_embed().diagonal(0, 1, 2), "B 3"),
    Case("slice_scatter", lambda x, y: torch.slice_scatter(x, y, 1, 1, 3), "B 4", "B 2"),
    Case("select_scatter", lambda x, y: torch.select_scatter(x, y, 1, 1), "B 4", "B"),
    Case("diagonal_scatter", lambda x, y: torch.diagonal_scatter(x, y, 0, 1, 2), "B 2 2", "B 2"),
    Case("alias_copy", lambda x: aten.alias_copy(x), "B 4"),
    Case("detach_copy", lambda x: aten.detach_copy(x), "B 4"),
    Case("diagonal_copy", lambda x: aten.diagonal_copy(x, 0, 1, 2), "B 2 3"),
    Case("expand_copy", lambda x: aten.expand_copy(x, [2, 3, 4]), "B 4", samples_in=1),
    Case("narrow_copy", lambda x: aten.narrow_copy(x, 1, 1, 2), "B 4"),
    Case("permute_copy", lambda x: aten.permute_copy(x, [1, 0]), "B 4", samples_in=1),
    Case("select_copy", lambda x: aten.select_copy(x, 1, 1), "B 4"),
    Case("slice_copy", lambda x: aten.slice_copy(x, 1, 1, 4, 2), "B 4"),
    Case("split_copy", lambda x: aten.split_copy(x, 2, 1), "B 4"),
    Case("split_with_sizes_copy", lambda x: aten.split_with_sizes_copy(x, [1, 3], 1), "B 4"),
    Case("squeeze_copy", lambda x: aten.squeeze_copy(x), "B 1 4"),
    Case("t_copy", lambda x: aten.t_copy(x), "B 4", samples_in=1),
    Case("transpose_copy", lambda x: aten.transpose_copy(x, 0, 1), "B 4", samples_in=1),
    Case("unbind_copy", lambda x: aten.unbind_copy(x, 1), "B 4"),
    Case("unfold_copy", lambda x: aten.unfold_copy(x, 1, 2, 1), "B 4"),
    Case("unsqueeze_copy", lambda x: aten.unsqueeze_copy(x, 0), "B 4", samples_in=1),
    Case("view_copy", lambda x: aten.view_copy(x, [3, 2, 2]), "B 4"),
    Case("view_as_real_copy", lambda x: aten.view_as_real_copy(x), "B 2 : z"),
    Case("view_as_complex_copy", lambda x: aten.view_as_complex_copy(x.contiguous()), "B 3 2"),
    Case("im2col", lambda x: F.unfold(x, 2), "B 2 3 3"),
    Case("im2col", lambda x: F.unfold(x, 2, padding=1)[:, :, 5:6], "B 1 3 3"),
    Case("col2im", lambda x: F.fold(x, (3, 3), 2), "B 8 4"),
    Case("unfold_backward", lambda x: aten.unfold_backward(x, [3, 5], 1, 2, 1), "B 4 2"),
    Case("channel_shuffle", lambda x: aten.channel_shuffle(x, 2), "B 4 2 2"),
    Case("native_channel_shuffle", lambda x: aten.native_channel_shuffle(x, 2), "B 4 2 2"),
    Case("pixel_shuffle", lambda x: F.pixel_shuffle(x, 2), "B 4 2 2"),
    Case("pixel_unshuffle", lambda x: F.pixel_unshuffle(x, 2), "B 1 4 4"),
    Case("constant_pad_nd", lambda x: F.pad(x, (1, 2))[:, 1:-2], "B 4"),
    Case("constant_pad_nd", lambda x: F.pad(x, (-1, -1), value=7.0), "B 4"),
    Case("reflection_pad1d", lambda x: F.pad(x, (1, 2), "reflect"), "B 2 4"),
    Case("reflection_pad2d", lambda x: F.pad(x, (1, 1, 1, 1), "reflect"), "B 2 3 3"),
    Case("reflection_pad3d", lambda x: F.pad(x, (1,) * 6, "reflect"), "B 1 2 2 2"),
    Case("replication_pad1d", lambda x: F.pad(x, (1, 2), "replicate"), "B 2 3"),
    Case("replication_pad2d", lambda x: F.pad(x, (1, 2, 0, 1), "replicate"), "B 2 2 2"),
    Case("replication_pad3d", lambda x: F.pad(x, (1,) * 6, "replicate"), "B 1 2 2 2"),
    Case("fill", lambda x: x.fill_diagonal_(2.0)[:, 3:], "B 5"),
    Case(
        "_pack_padded_sequence",
        lambda x: aten._pack_padded_sequence(x, torch.tensor([2, 2, 2]), False)[0].view(2, 3, 4),
        "2 B 4",
        samples_in=1,
    ),
]


@pytest.mark.parametrize("case", [case for case in CASES if case.runs_here], ids=repr)
def test_declared_owners(case):
    check_declared(case)


@pytest.mark.parametrize("case", [case for case in CASES if case.runs_here], ids=repr)
@any_owners()
def test_any_owners(case, data, seed):
    check_any(case, data, seed)
