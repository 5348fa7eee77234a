"""Plans: two that agree make one for every length, and JSON gives them back."""

import json

import pytest

from shim.routing.layers import Kind
from shim.routing.owners import BY_INPUTS
from shim.routing.plan import Plan, PlannedCall, fits, from_json, generalize, instantiate, to_json
from shim.routing.reads import Reads
from shim.routing.rows import RowRule


def plan(length, *rules, shape=None, **settings):
    calls = tuple(
        PlannedCall(f"layer{index}", Kind.LINEAR, shape or (3, length, 8), (rule,)) for index, rule in enumerate(rules)
    )
    return Plan(calls, (("input_ids", (3, length)),), **settings)


def blocks(per):
    return RowRule(0, tuple(sample for sample in range(3) for _ in range(per)))


WHOLE = RowRule(0, (0, 1, 2))


def test_whole_rules_serve_every_length():
    general = generalize(plan(5, WHOLE, None), plan(9, WHOLE, None))
    served = instantiate(general, {"input_ids": (3, 7)})
    assert [call.rules for call in served.calls] == [(WHOLE,), (None,)]
    assert served.calls[0].shape == (3, None, 8)
    assert fits(served.calls[0], (3, 7, 8))
    assert not fits(served.calls[0], (6, 7, 8))
    assert not fits(served.calls[0], (3, 7, 9))
    assert not fits(served.calls[0], (3, 8))


def test_blocks_follow_the_input_dimension_that_they_followed_in_both():
    general = generalize(plan(5, blocks(5)), plan(9, blocks(9)))
    assert instantiate(general, {"input_ids": (3, 7)}).calls[0].rules == (blocks(7),)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (plan(5, WHOLE), plan(9, RowRule(1, (0, 1, 2)))),
        (plan(5, WHOLE), plan(9, WHOLE, WHOLE)),
        (plan(5, WHOLE), plan(9, None)),
        (plan(5, blocks(2)), plan(9, blocks(4))),  # as long as no input dimension
        (plan(5, blocks(5)), plan(9, RowRule(0, (0, 1, 2) * 9))),
        (plan(5, RowRule(0, (0, 0, 1, 2))), plan(9, RowRule(0, (0, 0, 0, 0, 1, 2)))),
        (plan(5, WHOLE, shape=(3, 5)), plan(9, WHOLE, shape=(3, 9, 1))),
    ],
)
def test_plans_that_disagree_make_no_general_one(one, other):
    assert generalize(one, other) is None
    assert generalize(other, one) is None


def test_blocks_hang_on_more_than_shapes_where_python_reads_integers():
    one, other = plan(5, blocks(5), reads=Reads.NUMBERS), plan(9, blocks(9), reads=Reads.NUMBERS)
    assert not one.is_lasting
    assert generalize(one, other) is None
    assert plan(5, WHOLE, reads=Reads.NUMBERS).is_lasting


def test_what_python_read_sample_by_sample_does_not_last():
    by_value, own = plan(5, WHOLE, reads=Reads.VALUES), plan(5, WHOLE, reads=Reads.WORKED_OUT)
    assert not by_value.is_lasting
    assert not by_value.by_data
    assert not own.is_lasting
    assert own.by_data == BY_INPUTS
    assert generalize(by_value, plan(9, WHOLE)) is None


def test_rows_that_data_decides_do_not_last():
    call = PlannedCall("layer", Kind.LINEAR, (3, 5, 8), (WHOLE,), by_data=1)
    assert not Plan((call,), ()).is_lasting
    assert Plan((call,), ()).by_data == 1


def test_json_gives_a_plan_back():
    general = generalize(plan(5, blocks(5), WHOLE, None), plan(9, blocks(9), WHOLE, None))
    for one in (general, plan(5, RowRule(None, (0, 2, 1)), reads=Reads.NUMBERS)):
        assert from_json(json.loads(json.dumps(to_json(one)))) == one
