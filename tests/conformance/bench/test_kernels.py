"""`bench kernels` on layers too small to say anything: every way is there and does the same, not how long it takes."""

import re

import pytest
import torch

from conformance.bench import kernels
from conformance.bench.kernels import Case, cases, rates

CASE = Case(32, 8, 6, 2, 3, "float32")


def rows_of(case, **settings):
    rows = kernels.measure(quick=True, seconds=0, device="cpu", of=[case], **settings)
    return {row.name[len(case.name) + 2 :]: row for row in rows}


def test_every_way_is_beside_its_floor_and_does_what_peft_does():
    rows = rows_of(CASE)
    grouped = {"grouped"} if hasattr(torch, "_grouped_mm") else set()
    assert set(rows) == {"single", "PEFT", "shim", "bmm", "one by one", "copied", "merged again"} | grouped
    for way, row in rows.items():
        assert row.value > 0
        assert row.unit == "x merged"
        assert (row.floor == 1) is (way == "merged again")
        if way not in ("single", "merged again"):
            assert float(re.search(r"off PEFT by (\S+)", row.spread).group(1)) < 1e-5


def test_a_way_that_does_something_else_is_seen(monkeypatch):
    original = kernels._grouped
    if not hasattr(torch, "_grouped_mm"):
        pytest.skip("this torch has no grouped product")
    monkeypatch.setattr(kernels, "_grouped", lambda layer, x, names: original(layer, x, names[::-1]))
    assert float(re.search(r"off PEFT by (\S+)", rows_of(CASE)["grouped"].spread).group(1)) > 0.01


def test_triton_is_measured_where_it_serves(monkeypatch):
    pytest.importorskip("triton", reason="Triton is not installed: pip install 'mixed-adapter-batches[gpu]'")
    from shim.kernels import triton_lora

    monkeypatch.setattr(triton_lora, "INTERPRETED", True)
    assert float(re.search(r"off PEFT by (\S+)", rows_of(CASE)["triton"].spread).group(1)) < 1e-5


def test_the_least_work_is_counted():
    (base, adapters) = Case(100, 8, 4, 5, 3).work(2)
    assert base == (2 * (100 * 100 + 20 * 100 + 20 * 100), 2 * 20 * 100 * 100)
    # x is read again, y read and written; every A and B once.
    assert adapters == (2 * (3 * 8 * 200 + 3 * 20 * 100), 2 * 20 * 8 * 200)


def test_rates_are_of_this_machine():
    bandwidth, rate = rates(torch.device("cpu"), torch.float32)
    assert bandwidth > 1e7
    assert rate > 1e7


def test_decoding_and_prompts_are_measured_on_a_gpu():
    for quick in (True, False):
        assert {1, 512} <= {case.tokens for case in cases(quick, "cuda")}
