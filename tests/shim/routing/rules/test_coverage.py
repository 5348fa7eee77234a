"""Every rule is held against brute force, and a wrong rule does not pass."""

import pytest
import torch
from packaging.version import Version
from torch.nn import functional as F

from shim.routing.rules import RULES
from tests.shim.routing.brute_force import Case, check_declared
from tests.shim.routing.rules import (
    test_attention,
    test_creation,
    test_indexing,
    test_loss,
    test_movement,
    test_placement,
    test_products,
    test_quantised,
    test_reduction,
    test_spatial,
)

aten = torch.ops.aten


def attend(q, k, v):
    return aten._scaled_dot_product_attention_math(q, k, v)


def grouped(x, w):
    ends = torch.tensor([1, 3], dtype=torch.int32)
    return torch._grouped_mm(x.bfloat16(), w.bfloat16(), offs=ends)


def convolve(x, w):
    return aten._convolution(x, w, None, [1], [1], [1], False, [0], 1, False, False, False, False)


MODULES = [
    test_attention,
    test_creation,
    test_indexing,
    test_loss,
    test_movement,
    test_placement,
    test_products,
    test_reduction,
    test_spatial,
]
# By tests of their own: ownership, recurrent layers, quantisers.
ELSEWHERE = set("nonzero masked_select repeat_interleave mkldnn_rnn_layer".split()) | test_quantised.NAMES
# The same function as a rule that is tested, under a name that the processor does not run.
NOT_RUN = set(
    """
    unsafe_split unsafe_split_with_sizes _conj_copy _neg_view_copy _lazy_clone resize _fill_mem_eff_dropout_mask
    _aminmax hash_tensor _fused_rms_norm _linalg_eigvals cholesky mkldnn_linear convolution_overrideable
    cudnn_convolution cudnn_convolution_transpose mkldnn_convolution _conv_depthwise2d conv_depthwise3d
    mkldnn_max_pool2d mkldnn_adaptive_avg_pool2d mkldnn_max_pool3d _upsample_lanczos2d_aa
    _grid_sampler_2d_cpu_fallback cudnn_grid_sampler cudnn_affine_grid_generator cudnn_batch_norm
    _scaled_dot_product_flash_attention _scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention
    _scaled_dot_product_fused_attention_overrideable
    """.split()
)


# Inference mode takes these apart below the tracer, which asks for their rule first.
WHOLE = [
    Case("linear", lambda x, w, b: F.linear(x, w, b), "B 2 4", "3 4", "3"),
    Case("linear", lambda x, w: F.linear(x, w), "2 4", "B 4", samples_in=1),
    Case("softmax", lambda x: aten.softmax.int(x, -1), "B 4"),
    Case("log_softmax", lambda x: aten.log_softmax.int(x, -1), "B 4"),
    Case("_scaled_dot_product_attention_math", attend, "B 2 3 4", "B 2 5 4", "B 2 5 4", samples_in=[0, 0]),
    Case("_grouped_mm", grouped, "B 8 : n", "2 8 8"),
    Case("_index_put_impl", lambda x, v: aten._index_put_impl(x, [None, torch.tensor([1, 3])], v), "B 4", "B 2"),
    Case("_reshape_copy", lambda x: aten._reshape_copy(x, [3, 2, 2]), "B 4"),
    Case("_stack", lambda x, y: aten._stack([x, y], 1), "B 4", "B 4"),
    Case("_convolution", convolve, "B 2 5", "4 2 3"),
    Case("avg_pool1d", lambda x: F.avg_pool1d(x, 2), "B 2 4"),
    Case("max_pool1d", lambda x: F.max_pool1d(x, 2), "B 2 4"),
    Case("adaptive_avg_pool1d", lambda x: F.adaptive_avg_pool1d(x, 2), "B 2 4"),
    Case("adaptive_avg_pool2d", lambda x: F.adaptive_avg_pool2d(x, 2), "B 2 4 4"),
    Case("adaptive_avg_pool3d", lambda x: F.adaptive_avg_pool3d(x, 1), "B 2 2 2 2"),
    Case("linalg_eigvals", lambda x: torch.linalg.eigvals(x), "B 2 2"),
]


@pytest.mark.parametrize("case", [case for case in WHOLE if case.runs_here], ids=repr)
def test_an_operation_that_is_made_of_others_has_its_rule(case):
    with torch.inference_mode():
        check_declared(case)


def test_every_rule_has_a_case():
    covered = {
        name for cases in [*(module.CASES for module in MODULES), WHOLE] for case in cases for name in case.names
    }
    assert set(RULES) - covered - ELSEWHERE - NOT_RUN == set()
    assert not NOT_RUN - set(RULES)


@pytest.mark.skipif(not hasattr(torch.ops.aten, "_fused_rms_norm"), reason="an older torch runs fewer")
def test_every_case_runs_on_a_recent_torch():
    missing = {name for module in MODULES for case in module.CASES if not case.runs_here for name in case.names}
    missing |= {name for case in WHOLE if not case.runs_here for name in case.names}
    assert missing <= {"_grouped_mm"}
    assert not missing or Version(torch.__version__) < Version("2.11"), "it runs on a CPU since"


WRONG = {
    "_softmax": (lambda op: op.ids(op.args[0]), Case("_softmax", lambda x: x.softmax(0), "B 2", samples_in="any")),
    "sum": (lambda op: None, Case("sum", lambda x: x.sum(-1), "B 2", samples_in="any")),
    "flip": (lambda op: op.ids(op.args[0]), Case("flip", lambda x: x.flip(0), "B 2", samples_in="any")),
    "cumsum": (
        lambda op: op.ids(op.args[0]),
        Case("cumsum", lambda x: x.cumsum(0), "B 2", samples_in="any"),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_rule_does_not_pass(name, monkeypatch):
    rule, case = WRONG[name]
    check_declared(case)
    monkeypatch.setitem(RULES, name, rule)
    with pytest.raises(AssertionError, match="reaches elements"):
        check_declared(case)


def test_a_rule_that_says_mixed_of_everything_does_not_pass(monkeypatch):
    case = Case("sum", lambda x: x.sum(-1), "B 2")
    monkeypatch.setitem(RULES, "sum", lambda op: torch.full((), -1, dtype=torch.int32))
    with pytest.raises(AssertionError):
        check_declared(case)


def test_a_rule_for_one_of_two_outputs_is_not_used(monkeypatch):
    case = Case("sort", lambda x: tuple(x.sort(1)), "B 2", samples_in="mixed", without_rule=["sort"])
    monkeypatch.setitem(RULES, "sort", lambda op: [op.ids(op.args[0])])
    check_declared(case)


def test_an_operation_without_a_rule_joins_all_that_it_read():
    check_declared(Case("", lambda x: torch.histc(x, 4), "B 2", samples_in="mixed", without_rule=["histc"]))
