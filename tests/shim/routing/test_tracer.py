"""The tracer as a whole: memory, what leaves torch, bookkeeping, operations of every form."""

import ctypes

import pytest
import torch
from torch import nn

from shim.routing.owners import MIXED
from shim.routing.reads import Reads
from shim.routing.tracer import Tracer

ROWS = torch.tensor([[1], [2], [3]], dtype=torch.int32)


@pytest.fixture
def tracer():
    return Tracer(3)


def seed(tracer, *shape, tainted=True, dtype=torch.float32):
    """Return a tensor whose first dimension holds the samples."""
    tensor = (torch.randn(shape) * 3).to(dtype)
    along = [3] + [1] * (len(shape) - 1)
    tracer.store.write(tensor, ROWS.view(along).expand(shape), tainted=tainted)
    return tensor


def owners(tracer, tensor):
    ids = tracer.store.ids(tensor)
    return 0 if ids is None else ids.tolist()


def test_constants_cost_nothing_and_own_nothing(tracer):
    with tracer:
        result = torch.ones(3, 4) @ torch.ones(4, 2)
    assert owners(tracer, result) == 0


@pytest.mark.parametrize(
    "write",
    [
        lambda x, y: x[:, 0].copy_(y),
        lambda x, y: x.t()[0].copy_(y),
        lambda x, y: x.select(1, 0).add_(y),
        lambda x, y: x.as_strided((3,), (2,)).mul_(y),
        lambda x, y: torch.add(y, 1, out=x[:, 0]),
        lambda x, y: x.__setitem__((slice(None), 0), y),
        lambda x, y: x.view(-1)[::2].copy_(y),
    ],
)
def test_a_write_through_a_view_reaches_its_base(tracer, write):
    base, row = torch.zeros(3, 2), seed(tracer, 3)
    with tracer:
        write(base, row)
        moved = base.flip(0)
    assert owners(tracer, base) == [[1, 0], [2, 0], [3, 0]]
    assert owners(tracer, moved) == [[3, 0], [2, 0], [1, 0]]


def test_a_write_to_a_diagonal(tracer):
    base, row = torch.zeros(3, 3), seed(tracer, 3)
    with tracer:
        base.diagonal().copy_(row)
    assert owners(tracer, base) == [[1, 0, 0], [0, 2, 0], [0, 0, 3]]


def test_a_write_to_elements_that_share_memory_joins(tracer):
    base, rows = torch.zeros(4), seed(tracer, 3, 2)
    with tracer:
        base.as_strided((3, 2), (1, 1)).copy_(rows)
    assert owners(tracer, base) == [1, MIXED, MIXED, 3]


def test_an_out_argument_is_not_read(tracer):
    x, out = seed(tracer, 3), seed(tracer, 3)
    with tracer:
        torch.add(torch.ones(3), 1, out=out)
        other = torch.exp(x.flip(0), out=torch.empty(3))
    assert owners(tracer, out) == [0, 0, 0]
    assert owners(tracer, other) == [3, 2, 1]


def test_numbers_seen_as_other_numbers(tracer):
    x = seed(tracer, 3, 4)
    with tracer:
        doubled = torch.view_as_real(torch.view_as_complex(x.view(3, 2, 2)) * 2)
        half = x.view(torch.int16) + 0
    assert owners(tracer, doubled) == ROWS.view(3, 1, 1).expand(3, 2, 2).tolist()
    assert owners(tracer, half) == ROWS.expand(3, 8).tolist()


def test_an_operation_without_a_rule_joins_and_is_counted(tracer):
    x = seed(tracer, 3, 4)
    with tracer:
        result = torch.histc(x, 4)
    assert owners(tracer, result) == [MIXED] * 4
    assert tracer.without_rule == {"histc": 1}
    assert tracer.mixers[0].startswith("histc on (3, 4)")


def test_the_first_operation_that_mixes_is_named_with_its_module(tracer):
    x = seed(tracer, 3, 4)
    tracer.module = "encoder.pool"
    with tracer:
        mean = x.mean(0)
        (mean + x).exp()
    assert tracer.mixers == ["mean on (3, 4) in encoder.pool"]


def test_values_that_adapters_do_not_change_may_mix(tracer):
    x = seed(tracer, 3, 4, tainted=False)
    with tracer:
        result = x - x.mean(0)
    assert owners(tracer, result) == ROWS.expand(3, 4).tolist()
    assert not tracer.mixers


READS = {
    "item": lambda x: x[0].item(),
    "float": lambda x: float(x[0]),
    "int": lambda x: int(x[0]),
    "if": lambda x: bool(x[0] > 0),
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy(),
    "dlpack": torch.from_dlpack,
    "data_ptr": lambda x: x.data_ptr(),
    "equal": lambda x: torch.equal(x, x + 1),
    "allclose": lambda x: torch.allclose(x, x),
    "iteration": lambda x: [float(one) for one in x],
    "format": lambda x: f"{x[0]}",
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_value_that_adapters_change_must_not_leave_torch(tracer, read):
    x = seed(tracer, 3)
    with tracer:
        read(x)
    assert tracer.obstacles


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_integers_of_an_input_may_be_read(tracer, read):
    x = seed(tracer, 3, tainted=False, dtype=torch.int64)
    with tracer:
        read(x)
    assert not tracer.obstacles


@pytest.mark.parametrize("how", ["tolist", "numpy", "dlpack"])
def test_numbers_of_an_input_must_not_leave_torch_together(tracer, how):
    x = seed(tracer, 3, tainted=False)
    with tracer:
        READS[how](x)
    assert tracer.obstacles


@pytest.mark.parametrize("how", ["item", "if", "equal", "allclose"])
def test_a_single_number_of_an_input_may_be_read(tracer, how):
    x = seed(tracer, 3, tainted=False)
    with tracer:
        READS[how](x)
    assert not tracer.obstacles


def test_integers_of_the_inputs_that_python_reads_are_noted(tracer):
    lengths = seed(tracer, 3, tainted=False, dtype=torch.int64)
    with tracer:
        assert not bool((lengths > 100).any())
        assert tracer.reads == Reads.NOTHING
        int(lengths.max())
        assert tracer.reads == Reads.NUMBERS
        lengths.tolist()
    assert tracer.reads == Reads.WORKED_OUT


def test_shapes_are_no_values(tracer):
    x = seed(tracer, 3, 4)
    with tracer:
        x.new_zeros(x.shape[0], x.size(1), x.numel(), x.dim())
        x.is_contiguous(), x.stride(), x.is_floating_point()
    assert not tracer.obstacles


def test_bookkeeping_is_no_data(tracer):
    choice = seed(tracer, 3, 2, dtype=torch.int64)
    with tracer, tracer.bookkeeping():
        hits = (choice > 0).sum(0)
        hits.tolist()
        mean = choice.float().mean(0)
    assert not tracer.obstacles
    assert owners(tracer, hits) == [0, 0]
    assert owners(tracer, mean) == [MIXED, MIXED]


def test_one_hot_reads_its_range_only_to_check_it(tracer):
    index = seed(tracer, 3, dtype=torch.int64).abs()
    tracer.store.write(index, ROWS.view(-1), tainted=True)
    with tracer:
        hot = nn.functional.one_hot(index, 40)
    assert not tracer.obstacles
    assert owners(tracer, hot) == ROWS.expand(3, 40).tolist()


def fill_unseen(tensor):
    """Write to the memory of `tensor` as a kernel outside torch does."""
    ctypes.memset(tensor.data_ptr(), 1, tensor.numel() * tensor.element_size())


@pytest.mark.parametrize(
    "read",
    [
        lambda e: e + 1,
        lambda e: e.add_(1),
        lambda e: torch.zeros(4).copy_(e),
        lambda e: e[1:].sum(),
        lambda e: torch.ones(1, 4) @ e.view(4, 1),
    ],
)
def test_memory_that_was_filled_unseen_is_refused(tracer, read):
    with tracer:
        empty = torch.empty(4)
        fill_unseen(empty)
        read(empty)
    assert "memory" in tracer.obstacles[0]


@pytest.mark.parametrize(
    "use",
    [
        lambda e: e.zero_() + 1,
        lambda e: e.copy_(torch.ones(4)) + 1,
        lambda e: e.uniform_() + 1,
        lambda e: torch.zeros_like(e) + 1,
        lambda e: torch.add(torch.ones(4), 1, out=e) + 1,
        lambda e: e.index_copy_(0, torch.arange(4), torch.ones(4)) + 1,
        lambda e: torch.addmm(e.view(1, 4), torch.ones(1, 2), torch.ones(2, 4), beta=0),
        lambda e: e.shape[0] + e.stride(0),
    ],
)
def test_memory_that_an_operation_wrote_is_not_refused(tracer, use):
    with tracer:
        use(torch.empty(4))
    assert not tracer.obstacles


def test_a_sparse_tensor_with_owners_is_refused(tracer):
    x = seed(tracer, 3, 3)
    with tracer:
        torch.sparse.mm(torch.eye(3).to_sparse(), x)
    assert "sparse" in tracer.obstacles[0]


def test_a_pause_follows_nothing(tracer):
    x = seed(tracer, 3)
    with tracer, tracer.paused():
        x.tolist()
        float(x.sum())
    assert not tracer.obstacles


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv1d(4, 6, 3, padding=1),
        nn.GELU(),
        nn.GroupNorm(2, 6),
        nn.Flatten(),
        nn.Linear(30, 8),
        nn.LayerNorm(8),
        nn.Unflatten(1, (2, 4)),
        nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
        nn.Softmax(-1),
    ).eval()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_a_network_in_every_mode(tracer, mode):
    module = network()
    with mode():
        x = seed(tracer, 3, 4, 5)
        plain = module(x)
        with tracer:
            result = module(x)
        expected = ROWS.view(3, 1, 1).expand(3, 2, 4).tolist()
        assert owners(tracer, result) == expected
        assert torch.allclose(result, plain, atol=1e-6)
    assert not tracer.without_rule
    assert not tracer.obstacles


def test_composite_operations_in_inference_mode(tracer):
    with torch.inference_mode():
        x = seed(tracer, 3, 4, 5)
        with tracer:
            results = [
                torch.einsum("bij,bkj->bik", x, x).sum((1, 2)),
                torch.matmul(x, torch.ones(5, 2)).mean((1, 2)),
                nn.functional.linear(x, torch.ones(2, 5)).amax((1, 2)),
                torch.where(x > 0, x, 0.0).flatten(1).norm(dim=1),
                x.reshape(3, 20).std(1),
                torch.maximum(x, x * 2)[:, 0, 0],
                torch.max(x, x * 2)[:, 0, 0],
            ]
    for result in results:
        assert owners(tracer, result) == [1, 2, 3]
    assert not tracer.without_rule


def test_gradients_do_not_stand_in_the_way(tracer):
    layer, x = nn.Linear(4, 2), seed(tracer, 3, 4)
    with tracer:
        result = layer(x).relu()
    assert result.requires_grad
    assert owners(tracer, result) == ROWS.expand(3, 2).tolist()


def test_writing_to_one_place_several_times_joins_all_that_is_there(tracer):
    memory = seed(tracer, 3, 1).flatten()
    with tracer:
        memory.as_strided((2, 2), (1, 1)).cumsum_(1)
    assert owners(tracer, memory) == [MIXED] * 3
