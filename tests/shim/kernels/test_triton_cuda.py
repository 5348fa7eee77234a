"""What only a GPU can show: no synchronisation in a layer, and one CUDA graph that serves every list of names."""

import pytest
import torch
from torch import nn

from shim.kernels import triton_lora
from shim.kernels.tables import RowTable
from shim.kernels.triton_lora import fused
from shim.kernels.triton_tables import number, tiles_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

NAMES = ["ann", "ben", "cat"]
WIDTH, OUT, RANKS = 1024, 512, (8, 16, 40)


@pytest.fixture
def layer():
    made = nn.Module()
    made.base_layer = nn.Linear(WIDTH, OUT, bias=False)
    made.lora_A = nn.ModuleDict({name: nn.Linear(WIDTH, rank, bias=False) for name, rank in zip(NAMES, RANKS)})
    made.lora_B = nn.ModuleDict({name: nn.Linear(rank, OUT, bias=False) for name, rank in zip(NAMES, RANKS)})
    made.scaling = dict(zip(NAMES, (1.0, 0.5, 2.0)))
    with torch.no_grad():
        yield made.to("cuda", torch.bfloat16)


def table_of(names):
    rows = {name: [row for row, other in enumerate(names) if other == name] for name in NAMES if name in names}
    return RowTable(rows, len(names), torch.device("cuda", torch.cuda.current_device()))


def product(layer, x, names):
    return fused(layer, x, table_of(names)).add(x, x.new_zeros(*x.shape[:2], OUT))


def test_a_device_that_triton_runs_on_is_served():
    assert triton_lora.works_on(torch.device("cuda", torch.cuda.current_device()))


def test_a_layer_that_was_called_before_does_not_wait_for_the_device(layer):
    x, table = torch.randn(4, 1, WIDTH, device="cuda", dtype=torch.bfloat16), table_of(["ann", "ben", "", "cat"])
    expected = fused(layer, x, table).add(x, layer.base_layer(x))
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = fused(layer, x, table).add(x, layer.base_layer(x))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(found, expected)


@pytest.mark.parametrize("tokens", [1, 40])
def test_one_graph_serves_every_list_of_names(layer, tokens, monkeypatch):
    x = torch.randn(5, tokens, WIDTH, device="cuda", dtype=torch.bfloat16)
    slots = torch.zeros(5, dtype=torch.int64, device="cuda")
    numbers = torch.tensor([number(name) for name in NAMES], device="cuda")
    lists = [["ann", "ben", "", "cat", "ann"], ["cat", "cat", "cat", "cat", "cat"], ["", "ben", "ben", "ann", ""]]
    expected = [product(layer, x, names) for names in lists]
    assert (expected[0] - expected[1]).abs().max() > 0.1
    launch = fused(layer, x, table_of(NAMES + ["", ""])).launches[0]
    monkeypatch.setattr(triton_lora, "place", lambda table, tokens, height: tiles_of(slots, numbers, tokens, height))
    y = x.new_zeros(5, tokens, OUT)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y.zero_()
        launch.add(x, y)
    for names, right in zip(lists, expected):
        slots.copy_(torch.tensor([NAMES.index(name) if name else len(NAMES) for name in names]))
        graph.replay()
        assert torch.equal(y, right)
