"""A stand-in is in place while any block wants it, and idle wherever somebody else has kept it."""

import threading

import pytest

from shim.routing.stand_ins import StandIn


class Greeter:
    def greet(self, name):
        return f"hello {name}"


UPSTREAM = Greeter.greet


@pytest.fixture
def loud():
    yield StandIn(Greeter, "greet", lambda upstream, greeter, name: upstream(name).upper())
    Greeter.greet = UPSTREAM


def test_it_stands_in_for_the_block_and_no_longer(loud):
    with loud:
        assert Greeter().greet("ann") == "HELLO ANN"
        assert Greeter.greet.__name__ == "greet"
    assert Greeter.greet is UPSTREAM


def test_it_is_put_back_whatever_was_raised(loud):
    with pytest.raises(KeyError), loud:
        raise KeyError
    assert Greeter.greet is UPSTREAM


def test_blocks_within_blocks_are_one(loud):
    with loud:
        with loud:
            assert Greeter().greet("ann") == "HELLO ANN"
        assert Greeter().greet("ann") == "HELLO ANN"
    assert Greeter.greet is UPSTREAM


def test_the_last_of_two_threads_puts_it_back(loud):
    entered, left = threading.Event(), threading.Event()

    def other():
        with loud:
            entered.set()
            left.wait(10)

    thread = threading.Thread(target=other)
    with loud:
        thread.start()
        assert entered.wait(10)
    assert Greeter().greet("ann") == "HELLO ANN"
    left.set()
    thread.join()
    assert Greeter.greet is UPSTREAM


def test_a_patch_that_outlasts_it_stays_and_may_be_taken_back(loud):
    def patched(greeter, name):
        return f"{before(greeter, name)}!"

    with loud:
        before = Greeter.greet
        Greeter.greet = patched
        assert Greeter().greet("ann") == "HELLO ANN!"
    assert Greeter().greet("ann") == "hello ann!"
    with loud:
        assert Greeter().greet("ann") == "HELLO ANN!"  # once, and outside of the patch
    Greeter.greet = before
    assert Greeter().greet("ann") == "hello ann"
    with loud:
        assert Greeter().greet("ann") == "HELLO ANN"
