"""LoRA layers whose rows the Triton kernels run, held against the rows alone."""

import copy

import torch
from torch import nn

from shim.kernels import triton_lora
from shim.kernels.layer import Memory, run_linear
from shim.kernels.tables import RowTable
from shim.kernels.triton_lora import Blocks, serves

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SMALL = Blocks(places=16, ranks=16, inner=16, columns=16, most_shares=3, warps=4, stages=2, least_share=16)
NAMES = ["ann", "ben", "cat", "dan"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


class Layer(nn.Module):
    """What `run_linear` reads of a `lora.Linear`."""

    def __init__(self, width, out, ranks, scalings, dtype=torch.float32, base_dtype=None):
        super().__init__()
        generator = torch.Generator().manual_seed(0)

        def linear(inner, outer):
            made = nn.Linear(inner, outer, bias=False, dtype=torch.float64)
            made.weight = nn.Parameter(torch.randn(outer, inner, generator=generator, dtype=torch.float64))
            return made

        self.base_layer = linear(width, out).to(base_dtype or dtype)
        self.lora_A = nn.ModuleDict({name: linear(width, rank).to(dtype) for name, rank in zip(NAMES, ranks)})
        self.lora_B = nn.ModuleDict({name: linear(rank, out).to(dtype) for name, rank in zip(NAMES, ranks)})
        self.scaling = dict(zip(NAMES, scalings))
        self.to(DEVICE)


def alone(layer, x, names):
    """Each row of `x` (rows, tokens, width) as the modules of its adapter give it."""
    found = []
    for row, name in zip(x, names):
        y = layer.base_layer(row)
        if name in layer.lora_A:
            down, up = layer.lora_A[name], layer.lora_B[name]
            y = (y + up(down(row.to(down.weight.dtype))) * layer.scaling[name]).to(y.dtype)
        found.append(y)
    return torch.stack(found)


def table_of(names, device=DEVICE):
    rows = {}
    for row, name in enumerate(names):
        if name != "__base__":
            rows.setdefault(name, []).append(row)
    return RowTable(rows, len(names), torch.device(device, 0) if device == "cuda" else torch.device(device))


def fused(layer, x, table):
    return triton_lora.fused(layer, x, table) if serves(x) else None


def by_triton(layer, x, names, dim=0):
    """Return the rows' outputs, after a look that it is the kernels that give them."""
    table = table_of(names)
    assert fused(layer, x, table) is not None
    return run_linear(layer, x, dim, table, Memory(keeps_weights=False))


def inputs(rows, tokens, width, dtype=torch.float32, seed=1):
    return torch.randn(rows, tokens, width, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def check_rows(layer, x, names):
    """Each row is at most four times as far from the float64 truth as rows alone, here and on other inputs, are."""
    truth = copy.deepcopy(layer).double()
    # One row of one number may be exact by luck; sixty-four are not.
    others = [name for name in dict.fromkeys(names) for _ in range(64)]
    more = inputs(len(others), 1, x.shape[2], x.dtype, seed=2)
    own = max(
        (alone(layer, some, of).double() - alone(truth, some.double(), of)).abs().max()
        for some, of in ((x, names), (more, others))
    )
    exact, found = alone(truth, x.double(), names), by_triton(layer, x, names)
    allowed = 4 * own
    for row, name in enumerate(names):
        error = (found[row].double() - exact[row]).abs().max()
        assert error <= allowed, f"row {row} of {name} is {error:.2g} off, but at most {allowed:.2g} should be"
