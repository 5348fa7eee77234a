"""Every rule is held against brute force, and a wrong rule does not pass."""

import pytest
import torch

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
    test_reduction,
    test_spatial,
)

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
# By tests of their own: ownership, recurrent layers.
ELSEWHERE = set("nonzero masked_select repeat_interleave mkldnn_rnn_layer".split())
# The same function as a rule that is tested, under a name that the processor does not run.
NOT_RUN = set(
    """
    _stack unsafe_split unsafe_split_with_sizes _reshape_copy _conj_copy _neg_view_copy _lazy_clone resize
    _fill_mem_eff_dropout_mask _aminmax hash_tensor log_softmax softmax _fused_rms_norm linalg_eigvals
    _linalg_eigvals cholesky linear mkldnn_linear _convolution convolution_overrideable cudnn_convolution
    cudnn_convolution_transpose mkldnn_convolution _conv_depthwise2d conv_depthwise3d _grouped_mm
    max_pool1d avg_pool1d adaptive_avg_pool1d mkldnn_max_pool2d adaptive_avg_pool2d mkldnn_adaptive_avg_pool2d
    mkldnn_max_pool3d adaptive_avg_pool3d _upsample_lanczos2d_aa _grid_sampler_2d_cpu_fallback cudnn_grid_sampler
    cudnn_affine_grid_generator cudnn_batch_norm _index_put_impl _scaled_dot_product_attention_math
    _scaled_dot_product_flash_attention _scaled_dot_product_efficient_attention
    _scaled_dot_product_cudnn_attention _scaled_dot_product_fused_attention_overrideable
    """.split()
)


def test_every_rule_has_a_case():
    covered = {name for module in MODULES for case in module.CASES for name in case.names}
    assert set(RULES) - covered - ELSEWHERE - NOT_RUN == set()
    assert not NOT_RUN - set(RULES)


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
