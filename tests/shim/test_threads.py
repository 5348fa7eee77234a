"""Many threads and tasks on one model, mixed, plain and failing calls at random: each has its own rows (S1, S3)."""

import asyncio
import random
import sys
import threading

import pytest
import torch

import shim
from tests.tiny_models import far_apart

NAMES = ("ann", "ben", "cat", "__base__")
THREADS, CALLS = 16, 25
ROWS, LENGTH = 4, 5


@pytest.fixture
def model(installed_shim):
    return far_apart(NAMES[:3], ["q_proj", "down_proj"], layers=2)


def own_rows(model, tokens):
    """Return the logits of every row under every name."""
    found = {}
    with torch.no_grad():
        for name in NAMES[:3]:
            model.set_adapter(name)
            found[name] = model(input_ids=tokens).logits
        with model.disable_adapter():
            found["__base__"] = model(input_ids=tokens).logits
    model.set_adapter("ann")
    return found


def state_of(model):
    modules = [
        (name, len(module._forward_hooks), len(module._forward_pre_hooks), sorted(vars(module)))
        for name, module in model.named_modules()
    ]
    return modules, model.active_adapters, [p.requires_grad for p in model.parameters()]


def one_call(model, tokens, own, chance):
    """Make one call at random and check what came of it."""
    kind = chance.choice(["mixed", "mixed", "plain", "unknown", "raises"])
    names = [chance.choice(NAMES) for _ in range(ROWS)]
    rows = [chance.randrange(ROWS) for _ in range(ROWS)]
    with torch.no_grad():
        if kind == "plain":
            observed, names = model(input_ids=tokens[rows]).logits, ["ann"] * ROWS
        elif kind == "unknown":
            with pytest.raises(shim.UnknownAdapterError):
                model(input_ids=tokens[rows], adapter_names=[*names[1:], "dan"])
            return
        elif kind == "raises":
            with pytest.raises(IndexError):  # an unknown token, in the embedding, after the names were chosen
                model(input_ids=tokens[rows] + 100, adapter_names=names)
            return
        else:
            observed = model(input_ids=tokens[rows], adapter_names=names).logits
    for position, (row, name) in enumerate(zip(rows, names)):
        torch.testing.assert_close(observed[position], own[name][row], rtol=1e-4, atol=1e-4)


def many_calls(model, tokens, own, seed):
    chance = random.Random(seed)
    for _ in range(CALLS):
        one_call(model, tokens, own, chance)


@pytest.fixture
def asked(model):
    """The model, tokens, and each row's own logits; that adapters differ is checked, and the model's state after."""
    tokens = torch.randint(3, 32, (ROWS, LENGTH), generator=torch.Generator().manual_seed(5))
    own = own_rows(model, tokens)
    for name in NAMES[1:]:
        assert (own[name] - own["ann"]).abs().amax((1, 2)).min() > 0.1
    before = state_of(model)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield model, tokens, own
    sys.setswitchinterval(interval)
    assert state_of(model) == before


def test_threads_do_not_meet(asked):
    faults = []
    start = threading.Barrier(THREADS)

    def run(seed):
        try:
            start.wait()
            many_calls(*asked, seed)
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]


@pytest.mark.skipif(sys.version_info < (3, 9), reason="asyncio.to_thread came with python 3.9")
def test_tasks_do_not_meet(asked):
    async def task(seed):
        chance = random.Random(seed)
        for _ in range(CALLS):
            if chance.random() < 0.5:
                one_call(*asked, chance)
                await asyncio.sleep(0)
            else:
                await asyncio.to_thread(one_call, *asked, chance)

    async def run():
        await asyncio.gather(*map(task, range(THREADS)))

    asyncio.run(run())
