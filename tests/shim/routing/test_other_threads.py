"""Work that a forward hands to other threads is not traced, and finds there the adapter of its call."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import shim
from shim.routing import other_threads
from shim.selection import BASE, Selection, select, selected
from tests.shim.routing.rows_alone import NAMES, X, check_rows

POOL = ThreadPoolExecutor(1)


def in_a_thread(work, *args):
    done = []
    thread = threading.Thread(target=lambda: done.append(work(*args)))
    thread.start()
    thread.join()
    return done[0]


def in_a_pool(work, *args):
    return POOL.submit(work, *args).result()


def in_a_thread_of_a_thread(work, *args):
    return in_a_thread(in_a_pool, work, *args)


WAYS = pytest.mark.parametrize("elsewhere", [in_a_thread, in_a_pool, in_a_thread_of_a_thread])


@pytest.fixture(autouse=True)
def methods_are_put_back():
    before = threading.Thread.start, ThreadPoolExecutor.submit
    yield
    assert (threading.Thread.start, ThreadPoolExecutor.submit) == before


@WAYS
@pytest.mark.parametrize("names", [NAMES, ["ben"] * 4], ids=["mixed", "one name"])
def test_layers_on_another_thread_run_under_the_adapters_of_their_rows(adapted, alone, elsewhere, names):
    def body(toy, x):
        with torch.no_grad():
            return toy.linear(elsewhere(torch.no_grad()(toy.linear), x * 2))

    model = adapted(body)
    wanted = {name: alone(model, name, X) for name in {*names, "__base__"}}
    model.set_adapter("ann")
    with torch.no_grad():
        mixed = model(X, adapter_names=names)
    for row, name in enumerate(names):
        torch.testing.assert_close(mixed[row], wanted[name][row], rtol=1e-9, atol=1e-9)
        if name != "__base__":
            assert (mixed[row] - wanted["__base__"][row]).abs().max() > 1e-4


@WAYS
def test_values_that_meet_on_another_thread_are_not_taken_for_constants(adapted, elsewhere):
    model = adapted(lambda toy, x: toy.linear(elsewhere(lambda y: y.flip(0), toy.linear(x))))
    shim.install(fallback="refuse")
    with torch.no_grad(), pytest.raises(shim.RefusedError, match="handed to another thread"):
        model(X, adapter_names=NAMES)


def test_a_thread_that_others_start_meanwhile_is_no_matter(adapted, alone):
    begun, ended = threading.Event(), threading.Event()
    seen = []

    def other():
        begun.wait(10)
        seen.append(in_a_thread(selected))
        ended.set()

    def body(toy, x):
        begun.set()
        ended.wait(10)
        return toy.linear(x)

    model = adapted(body)
    thread = threading.Thread(target=other)
    thread.start()
    shim.install(fallback="refuse")
    check_rows(model, alone, X, NAMES)
    thread.join()
    assert seen == [None]


def test_a_worker_that_a_pool_starts_keeps_nothing_of_the_call():
    selection = Selection(None, BASE, {})
    with ThreadPoolExecutor(1) as pool:
        with select(selection), other_threads.carried_to_threads():
            assert pool.submit(selected).result() is selection
        assert pool.submit(selected).result() is None
        assert pool.submit(lambda: other_threads._HERE.handle).result() is None


def test_work_that_raises_raises_as_it_did():
    def work():
        raise KeyError("mine")

    with other_threads.carried_to_threads(), pytest.raises(KeyError, match="mine"):
        in_a_pool(work)
