"""A mesh of two dimensions, transformers' own tensor parallelism, and autocast on every engine."""

import copy
import os

import accelerate
import pytest
import torch
from peft.tuners.lora import model as lora_model

import shim
from tests.shim.engines.processes import in_two
from tests.shim.engines.rows import (
    NAMES,
    adapted,
    base_llama,
    expect_rows,
    expect_rows_under_autocast,
    llama,
    sentences,
)
from tests.shim.engines.test_processes import NEEDS_FULLY_SHARD, own, refusal, sharded

# What runs in the processes.


def sharded_and_replicated(rank):
    from torch.distributed.device_mesh import init_device_mesh

    names, inputs = own(rank)
    model = sharded(llama(), mesh=init_device_mesh("cpu", (1, 2), mesh_dim_names=("replicate", "shard")))
    return refusal(lambda: model(**inputs, adapter_names=names))


def transformers_tensor_parallel(rank, folder):
    from torch.distributed.tensor import distribute_tensor
    from transformers import LlamaForCausalLM

    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank))
    whole, inputs = llama(), sentences(5)
    model = adapted(LlamaForCausalLM.from_pretrained(folder, tp_plan="auto", torch_dtype=torch.float64).eval())
    with torch.no_grad():
        values = dict(whole.named_parameters())
        for path, weight in model.named_parameters():
            if (
                "lora_" in path
            ):  # drawn anew on each rank, those that PEFT shards in parts; not by `.data`, which it loses
                value, mesh = values[path], getattr(weight, "device_mesh", None)
                weight.copy_(distribute_tensor(value, mesh, weight.placements) if mesh else value)
        for _ in range(2):
            expect_rows(model(**inputs, adapter_names=NAMES).logits, whole, inputs, NAMES)
    sharded = {path for path, weight in model.named_parameters() if hasattr(weight, "device_mesh")}
    return sharded, refusal(lambda: model(**inputs, adapter_names=NAMES[::-1] if rank else NAMES))


def autocast_on_ranks(rank, engine):
    whole, (names, inputs) = llama().float(), own(rank)
    with torch.no_grad():
        model = ENGINES[engine](copy.deepcopy(whole))
        for _ in range(2):
            expect_rows_under_autocast(lambda: model(**inputs, adapter_names=names).logits, whole, inputs, names)


ENGINES = {"data parallel": torch.nn.parallel.DistributedDataParallel, "fully sharded": sharded}

# The tests.


@NEEDS_FULLY_SHARD
def test_shards_on_a_mesh_of_two_dimensions_are_refused_on_every_rank(tmp_path):
    for said in in_two(sharded_and_replicated, tmp_path):
        assert "replicate" in said
        assert "Shard along one" in said


@pytest.mark.parametrize("engine", list(ENGINES))
def test_rows_under_autocast_are_as_exact_as_alone_on_ranks(tmp_path, engine):
    in_two(autocast_on_ranks, tmp_path, engine)


def test_rows_under_autocast_are_as_exact_as_alone_where_weights_are_kept_elsewhere():
    model, inputs = llama().float(), sentences(5)
    whole = copy.deepcopy(model)
    model = accelerate.cpu_offload(model, torch.device("cpu"))
    with torch.no_grad():
        for _ in range(2):
            expect_rows_under_autocast(lambda: model(**inputs, adapter_names=NAMES).logits, whole, inputs, NAMES)
    assert shim.explain(model, inputs, NAMES).route == "one pass"


@pytest.mark.skipif(
    not hasattr(lora_model, "add_lora_tp_hooks_dtensor"),
    reason="peft that shards LoRA as transformers 5.15 does its base",
)
def test_rows_of_transformers_tensor_parallelism_are_those_of_one_process(tmp_path):
    base_llama().save_pretrained(tmp_path / "base")
    for parts, said in in_two(transformers_tensor_parallel, tmp_path, str(tmp_path / "base")):
        assert any("lora_B" in path for path in parts)
        assert any("base_layer" in path for path in parts)
        assert "the same adapter_names" in said


def test_rows_that_autocast_rounds_too_far_are_seen():
    model, inputs = llama().float(), sentences(5)
    with torch.no_grad(), pytest.raises(AssertionError, match="off by"):
        expect_rows_under_autocast(lambda: model(**inputs, adapter_names=NAMES[::-1]).logits, model, inputs, NAMES)
