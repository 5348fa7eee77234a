"""Rules of fused attention and of masked softmax, against brute force."""

import pytest
import torch

from shim.routing.owners import MIXED
from tests.shim.routing.brute_force import SAMPLES, Case, any_owners, check_any, check_declared, run, trace

aten = torch.ops.aten
LEAST = torch.finfo(torch.float64).min


def flash(q, k, v, **options):
    # The kernel takes rows without gaps; `scaled_dot_product_attention` sees to it.
    rows = (tensor.contiguous() for tensor in (q, k, v))
    return aten._scaled_dot_product_flash_attention_for_cpu(*rows, **options)


ROWS = ("B 2 3 4", "B 2 5 4", "B 2 5 4")
CASES = [
    Case("_scaled_dot_product_flash_attention_for_cpu", flash, *ROWS),
    Case("_scaled_dot_product_flash_attention_for_cpu", lambda q, k, v: flash(q, k, v, is_causal=True), *ROWS),
    Case("_scaled_dot_product_flash_attention_for_cpu", lambda q, k, v, m: flash(q, k, v, attn_mask=m), *ROWS, "3 5"),
    Case("_scaled_dot_product_flash_attention_for_cpu", flash, "2 B 3 4", "2 B 5 4", "2 B 5 4", samples_in=1),
]


@pytest.mark.parametrize("case", [case for case in CASES if case.runs_here], ids=repr)
def test_declared_owners(case):
    check_declared(case)


@pytest.mark.parametrize("case", [case for case in CASES if case.runs_here], ids=repr)
@any_owners()
def test_any_owners(case, data, seed):
    check_any(case, data, seed)


fused = pytest.mark.skipif(
    not hasattr(aten, "_scaled_dot_product_flash_attention_for_cpu"), reason="no fused attention on the processor"
)
# One sequence that holds two tokens of each sample, as a packed batch does.
OWNERS = torch.arange(1, SAMPLES + 1, dtype=torch.int32).repeat_interleave(2)
SAME = OWNERS[:, None] == OWNERS[None, :]


def packed(masked, kind, rows=2 * SAMPLES):
    """Return the owners of packed tokens after `masked`, and of a run where one sample's tokens changed, what did."""
    torch.manual_seed(0)
    tokens = torch.randn(1, 1, rows, 4, dtype=torch.float64)
    owners = OWNERS.view(1, 1, rows, 1).expand(tokens.shape)
    traced = trace(masked, [tokens, kind], [owners, None])
    return traced, tokens, owners


MASKS = {
    "infinite": torch.where(SAME, 0.0, -float("inf")).double(),
    "least": torch.zeros(SAME.shape, dtype=torch.float64).masked_fill(~SAME, LEAST),
}


@fused
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_packed_attention_stays_within_a_sample(mask):
    traced, _, owners = packed(lambda x, m: flash(x, x, x, attn_mask=m)[0], mask)
    assert torch.equal(traced.ids[0], owners)
    assert not traced.tracer.without_rule


@fused
def test_an_attention_row_masked_throughout_by_a_finite_number_attends_to_all():
    mask = torch.full((2 * SAMPLES, 2 * SAMPLES), LEAST, dtype=torch.float64)
    traced, *_ = packed(lambda x, m: flash(x, x, x, attn_mask=m)[0], mask)
    assert bool((traced.ids[0] == -1).all())


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_packed_eager_attention_stays_within_a_sample(mask):
    def attend(x, m):
        return torch.softmax(x @ x.transpose(-1, -2) + m, -1) @ x

    traced, tokens, owners = packed(attend, mask)
    assert torch.equal(traced.ids[0], owners)
    for sample in range(1, SAMPLES + 1):
        other = torch.where(owners == sample, tokens * 3 + 1, tokens)
        change = run(attend, [tokens, mask])[0] != run(attend, [other, mask])[0]
        assert bool((traced.ids[0][change] == sample).all())


def test_a_softmax_without_a_mask_mixes_what_it_spans():
    traced, *_ = packed(lambda x, _: torch.softmax(x @ x.transpose(-1, -2), -1), MASKS["least"])
    assert bool((traced.ids[0] == -1).all())


def test_a_zero_that_a_sample_made_takes_part_in_a_product():
    rows = torch.tensor([[-1.0, 2.0], [3.0, -1.0], [1.0, 1.0]], dtype=torch.float64)
    owners = torch.tensor([[1], [2], [3]], dtype=torch.int32).expand(3, 2)
    traced = trace(lambda x: torch.relu(x) @ torch.ones(2, 1).double() @ x[:1], [rows], [owners])
    assert traced.ids[0].tolist() == [[1, 1], [-1, -1], [-1, -1]]


def test_heads_of_keys_shared_by_several_heads_of_queries():
    query = torch.randn(SAMPLES, 4, 3, 4)
    key = torch.randn(SAMPLES, 2, 5, 4)
    owners = [
        torch.arange(1, SAMPLES + 1, dtype=torch.int32).view(-1, 1, 1, 1).expand(one.shape) for one in (query, key)
    ]

    def attend(q, k):
        return torch.nn.functional.scaled_dot_product_attention(q, k, k, enable_gqa=True)

    try:
        run(attend, [query, key])
    except (TypeError, AttributeError, RuntimeError):
        pytest.skip("attention without shared heads")
    traced = trace(attend, [query, key], owners)
    assert torch.equal(traced.ids[0], owners[0])


def test_a_mask_that_the_kernel_may_misread_joins_everything():
    """Torch 2.4.1 and 2.6.0 take a mask's last dimension for contiguous; the probe says which ones do."""
    if not hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu"):
        pytest.skip("no such kernel")
    x = torch.randn(SAMPLES, 1, 3, 4, dtype=torch.float64)
    owners = torch.arange(1, SAMPLES + 1, dtype=torch.int32).view(-1, 1, 1, 1).expand(x.shape)

    def attend(x, mask):
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(x, x, x, 0.0, False, attn_mask=mask)[0]

    mask = torch.randn(3, 3, dtype=torch.float64)
    try:
        misread = not torch.allclose(run(attend, [x, mask.t()])[0], run(attend, [x, mask.t().contiguous()])[0])
    except TypeError:
        pytest.skip("the kernel takes no mask")
    traced = trace(attend, [x, mask.t()], [owners, None])
    assert bool((traced.ids[0] == MIXED).all()) is misread
    assert torch.equal(trace(attend, [x, mask], [owners, None]).ids[0], owners)
