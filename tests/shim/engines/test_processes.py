"""DDP, FSDP2 and tensor parallelism on two processes, each rank with its own names, adapters and batch size (E2)."""

import copy
import os

import pytest
import torch
from peft.tuners.lora import model as lora_model

from shim.errors import RefusedError
from tests.shim.engines.processes import in_two
from tests.shim.engines.rows import (
    NAMES,
    adapted,
    alone,
    base_llama,
    distance,
    expect_rows,
    expect_rows_under_autocast,
    llama,
    sentences,
)

UNEVEN = [NAMES, ["it", "fr", "fr"]]
RANKS_DIFFER = [["fr", "de", "__base__", "fr", "de"], ["it", "it", "it"]]


def own(rank, names=UNEVEN):
    """Return the names and the inputs of a rank: other lengths and other samples than the other's."""
    return names[rank], sentences(len(names[rank]), 6 + rank, seed=rank)


def averaged(model, names, inputs):
    """Return the mean over ranks of the gradients that a model which is not sharded has; None where no rank has one."""
    model(**inputs, adapter_names=names, labels=inputs["input_ids"]).loss.backward()
    found = {}
    for path, weight in model.named_parameters():
        if "lora_" in path:
            held = torch.tensor(float(weight.grad is not None))
            torch.distributed.all_reduce(held)
            gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad.clone()
            torch.distributed.all_reduce(gradient)
            found[path] = gradient / 2 if held else None
    return found


def refusal(call):
    """Return what a call is refused with; raise where it is not."""
    with pytest.raises(RefusedError) as refused:
        call()
    return str(refused.value)


# What runs in the processes.


def data_parallel(rank):
    whole, (names, inputs) = llama(), own(rank)
    model = torch.nn.parallel.DistributedDataParallel(copy.deepcopy(whole), find_unused_parameters=True)
    for _ in range(2):
        with torch.no_grad():
            expect_rows(model(**inputs, adapter_names=names).logits, whole, inputs, names)
    model.train()
    errors = []
    for batch in (UNEVEN, RANKS_DIFFER):
        names, inputs = own(rank, batch)
        model.zero_grad(set_to_none=True)
        model(**inputs, adapter_names=names, labels=inputs["input_ids"]).loss.backward()
        expected = averaged(copy.deepcopy(whole).train(), names, inputs)
        for path, weight in model.module.named_parameters():
            if "lora_" in path:
                assert (weight.grad is None) == (expected[path] is None), path
                if weight.grad is not None:
                    assert expected[path].abs().max() > 1e-6
                    errors.append(distance(weight.grad, expected[path]))
    return max(errors)


def data_parallel_that_would_wait(rank):
    names, inputs = own(rank, RANKS_DIFFER)
    model = torch.nn.parallel.DistributedDataParallel(llama().train())
    return refusal(lambda: model(**inputs, adapter_names=names, labels=inputs["input_ids"]))


def autocast(rank):
    whole, (names, inputs) = llama().float(), own(rank)
    for engine in (torch.nn.parallel.DistributedDataParallel, *([sharded] if HAS_FULLY_SHARD else [])):
        model = engine(copy.deepcopy(whole))
        with torch.no_grad():
            for _ in range(2):
                expect_rows_under_autocast(
                    lambda m=model: m(**inputs, adapter_names=names).logits, whole, inputs, names
                )


def sharded(model, **options):
    from torch.distributed.fsdp import fully_shard

    for block in model.get_base_model().model.layers:
        fully_shard(block, **options)
    return fully_shard(model, **options)


def fully_sharded(rank):
    whole, (names, inputs) = llama(), own(rank)
    model = sharded(copy.deepcopy(whole))
    assert any(hasattr(weight, "device_mesh") for weight in model.parameters())
    with torch.no_grad():
        for _ in range(2):
            expect_rows(model(**inputs, adapter_names=names).logits, whole, inputs, names)
        for length in (9, 11):  # one rank has to trace, the other has its plan
            inputs = sentences(len(names), length if rank else 6, seed=rank)
            expect_rows(model(**inputs, adapter_names=names).logits, whole, inputs, names)
        one = ["de"] * len(names) if rank else names  # one rank's rows are all of one adapter
        inputs = sentences(len(names), 13, seed=rank)
        expect_rows(model(**inputs, adapter_names=one).logits, whole, inputs, one)


def fully_sharded_training(rank):
    whole = llama()
    model = sharded(copy.deepcopy(whole)).train()
    errors = []
    for length in (6, 8):
        names = [["fr", "de", "__base__", "it", "de"], ["it", "de", "fr"]][rank]
        inputs = sentences(len(names), length + rank, seed=rank)
        model.zero_grad(set_to_none=True)
        model(**inputs, adapter_names=names, labels=inputs["input_ids"]).loss.backward()
        expected = averaged(copy.deepcopy(whole).train(), names, inputs)
        for path, weight in model.named_parameters():
            if "lora_" in path:
                assert expected[path].abs().max() > 1e-6
                errors.append(distance(weight.grad.full_tensor(), expected[path]))
    return max(errors)


def fully_sharded_refusals(rank):
    from torch.distributed.device_mesh import init_device_mesh

    whole, (names, inputs) = llama(), own(rank)
    model = sharded(copy.deepcopy(whole))
    found = {}
    with torch.no_grad():
        wrong = [*names[:-1], "nobody"] if rank else names
        try:
            model(**inputs, adapter_names=wrong)
        except ValueError as error:
            found["unknown on rank 1"] = type(error).__name__ + ": " + str(error)
        found["generate"] = refusal(lambda: model.generate(**inputs, adapter_names=names, max_new_tokens=2))
        found["per_sample"] = refusal(lambda: model(**inputs, adapter_names=names, per_sample=True))
        expect_rows(model(**inputs, adapter_names=names).logits, whole, inputs, names)
    mesh = init_device_mesh("cpu", (1, 2), mesh_dim_names=("replicate", "shard"))
    found["two dimensions"] = refusal(lambda: sharded(llama(), mesh=mesh)(**inputs, adapter_names=names))
    names, inputs = own(rank, RANKS_DIFFER)
    model.train()
    found["training"] = refusal(lambda: model(**inputs, adapter_names=names, labels=inputs["input_ids"]))
    return found


def fully_sharded_inside_a_layer(rank):
    from torch.distributed.fsdp import fully_shard

    names, inputs = own(rank)
    model = llama()
    fully_shard(model.get_base_model().model.layers[0].self_attn.q_proj.base_layer)
    return refusal(lambda: model(**inputs, adapter_names=names))


def tensor_parallel(rank):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    mesh, whole, inputs = init_device_mesh("cpu", (2,)), llama(), sentences(5)
    plans = {
        "adapted layers": {
            "self_attn.q_proj.base_layer": ColwiseParallel(output_layouts=Replicate()),
            "mlp.down_proj.base_layer": RowwiseParallel(input_layouts=Replicate()),
        },
        "beside them": {"mlp.gate_proj": ColwiseParallel(output_layouts=Replicate())},
        "from one to the next": {
            "mlp.gate_proj": ColwiseParallel(output_layouts=Replicate()),
            "mlp.up_proj": ColwiseParallel(output_layouts=Replicate()),
            "self_attn.o_proj": RowwiseParallel(input_layouts=Replicate()),
        },
    }
    for plan in plans.values():
        model = copy.deepcopy(whole)
        for block in model.get_base_model().model.layers:
            parallelize_module(block, mesh, plan)
        with torch.no_grad():
            for _ in range(2):
                expect_rows(model(**inputs, adapter_names=NAMES).logits, whole, inputs, NAMES)
    return refusal(lambda: model(**inputs, adapter_names=NAMES[::-1] if rank else NAMES))


def transformers_tensor_parallel(rank, folder):
    from torch.distributed.tensor import distribute_tensor
    from transformers import LlamaForCausalLM

    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank))
    whole, inputs = llama(), sentences(5)
    model = adapted(LlamaForCausalLM.from_pretrained(folder, tp_plan="auto", torch_dtype=torch.float64).eval())
    parts = {path: weight for path, weight in model.named_parameters() if hasattr(weight, "device_mesh")}
    values = dict(whole.named_parameters())
    with torch.no_grad():
        for path, weight in model.named_parameters():
            if "lora_" in path:  # into the weight itself: PEFT's products do not see what `.data` is set to
                part = parts.get(path)
                weight.copy_(
                    values[path] if part is None else distribute_tensor(values[path], part.device_mesh, part.placements)
                )
        for _ in range(2):
            expect_rows(model(**inputs, adapter_names=NAMES).logits, whole, inputs, NAMES)
    return set(parts), refusal(lambda: model(**inputs, adapter_names=NAMES[::-1] if rank else NAMES))


# The tests.

HAS_FULLY_SHARD = hasattr(getattr(torch.cpu, "Stream", None), "record_event")
NEEDS_FULLY_SHARD = pytest.mark.skipif(
    not HAS_FULLY_SHARD,
    reason="fully_shard that runs on CPU, and torch.distributed.tensor as it is used here: after torch 2.6",
)


def test_data_parallel_ranks_have_rows_of_their_own(tmp_path):
    assert max(in_two(data_parallel, tmp_path)) <= 1e-9


def test_data_parallel_that_would_wait_for_ever_is_refused(tmp_path):
    for said in in_two(data_parallel_that_would_wait, tmp_path):
        assert "requires grad" in said
        assert "find_unused_parameters=True" in said


@NEEDS_FULLY_SHARD
def test_fully_sharded_ranks_have_rows_of_their_own(tmp_path):
    in_two(fully_sharded, tmp_path)


@NEEDS_FULLY_SHARD
def test_fully_sharded_ranks_train_their_rows(tmp_path):
    assert max(in_two(fully_sharded_training, tmp_path)) <= 1e-9


@NEEDS_FULLY_SHARD
def test_what_one_rank_is_refused_all_are(tmp_path):
    first, second = in_two(fully_sharded_refusals, tmp_path)
    assert second["unknown on rank 1"].startswith("UnknownAdapterError")
    assert first["unknown on rank 1"].startswith("RefusedError: rank 1")
    assert "nobody" in first["unknown on rank 1"]
    for found in (first, second):
        assert "for each token" in found["generate"]
        assert "per_sample" in found["per_sample"]
        assert "one mesh of one dimension only. Shard along one" in found["two dimensions"]
        assert "['it']" in found["training"]
        assert "same adapters" in found["training"]


@NEEDS_FULLY_SHARD
def test_shards_inside_an_adapted_layer_are_refused(tmp_path):
    for said in in_two(fully_sharded_inside_a_layer, tmp_path):
        assert "q_proj.base_layer" in said
        assert "block around" in said


@NEEDS_FULLY_SHARD
def test_tensor_parallel_rows_are_those_of_one_process(tmp_path):
    for said in in_two(tensor_parallel, tmp_path):
        assert "the same adapter_names" in said


@pytest.mark.skipif(
    not hasattr(lora_model, "add_lora_tp_hooks_dtensor"), reason="peft that shards LoRA as transformers 5.15 its base"
)
def test_rows_of_transformers_tensor_parallelism_are_those_of_one_process(tmp_path):
    base_llama().save_pretrained(tmp_path / "base")
    for parts, said in in_two(transformers_tensor_parallel, tmp_path, str(tmp_path / "base")):
        assert any("lora_B" in path for path in parts)
        assert any("base_layer" in path for path in parts)
        assert "the same adapter_names" in said


def test_rows_under_autocast_are_as_exact_as_alone(tmp_path):
    in_two(autocast, tmp_path)


def test_a_rank_that_fails_fails_the_test(tmp_path):
    with pytest.raises(AssertionError, match=r"rank 0: [\s\S]*ZeroDivisionError"):
        in_two(failing, tmp_path)


def failing(rank):
    return 1 // rank


def test_rows_that_are_off_are_seen():
    model, inputs = llama(), sentences(5)
    with pytest.raises(AssertionError, match="off by"):
        expect_rows(alone(model, inputs, NAMES[::-1]), model, inputs, NAMES)
