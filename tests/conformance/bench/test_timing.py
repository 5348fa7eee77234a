"""Side-by-side timing: turns are taken, contexts are not timed. No test asserts how long anything takes."""

from contextlib import contextmanager

from conformance.bench.timing import interleaved


def test_functions_take_turns():
    order = []
    found = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, seconds=0)
    assert order == ["a", "b"] * (found["a"].runs + 1)
    assert found["a"].runs >= 5
    assert found["a"].low <= found["a"].median <= found["a"].high


def test_a_context_is_entered_for_its_function_only():
    inside = []

    @contextmanager
    def within():
        inside.append(True)
        yield
        inside.append(False)

    seen = []
    interleaved(
        {"a": lambda: seen.append(len(inside) % 2), "b": lambda: seen.append(len(inside) % 2)},
        within={"a": within},
        seconds=0,
    )
    assert seen[::2] == [1] * len(seen[::2])
    assert seen[1::2] == [0] * len(seen[1::2])
