from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.checks import CHECKS
from conformance.models import MODELS
from conformance.scenarios import BASE, NAMES, Draws, scenarios

PAIRS = [(model, check) for model in MODELS.values() for check in CHECKS.values() if check.applies_to(model)]


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_every_scenario_is_one_that_the_check_asked_for(data):
    model, check = data.draw(st.sampled_from(PAIRS))
    draws, scenario = check.draws, data.draw(scenarios(model, check.draws))
    assert draws.adapters[0] <= len(scenario.adapters) <= draws.adapters[1]
    assert draws.rows[0] <= len(scenario.rows) <= draws.rows[1]
    assert set(scenario.rows) <= {*scenario.names, BASE}
    assert scenario.active in scenario.names
    assert scenario.names == NAMES[: len(scenario.adapters)]
    if draws.mixed:
        assert len(set(scenario.rows)) > 1
    for adapter in scenario.adapters:
        assert adapter.targets
        assert set(adapter.targets) <= set(model.targets)
        assert set(adapter.saved) <= set(model.saved)
        if draws.saved == "none":
            assert not adapter.saved
    if draws.saved == "differ":
        assert scenario.adapters[0].saved == model.saved
        assert not scenario.adapters[-1].saved
    if draws.crowded:
        assert set(scenario.names) <= set(scenario.rows)
        assert sorted(Counter(adapter.rank for adapter in scenario.adapters).values()) == [2, 2]
        assert len({adapter.alpha / adapter.rank for adapter in scenario.adapters}) == 4
        assert set.intersection(*(set(adapter.targets) for adapter in scenario.adapters))


def test_the_simplest_scenario_comes_first():
    drawn = []

    @settings(max_examples=1, database=None, derandomize=True)
    @given(scenarios(MODELS["bert"], Draws(adapters=(1, 3), rows=(2, 4))))
    def first(scenario):
        drawn.append(scenario)

    first()
    assert drawn[0].rows == ("ann", BASE)
    assert len(drawn[0].adapters) == 1


def test_a_scenario_can_be_pasted():
    from conformance.scenarios import Adapter, Scenario

    scenario = Scenario((Adapter("ann", targets=("q",)),), ("ann", BASE), 3, "ann")
    assert eval(repr(scenario), {"Adapter": Adapter, "Scenario": Scenario}) == scenario


@pytest.mark.parametrize("check", CHECKS.values(), ids=lambda check: check.name)
def test_every_check_is_a_sentence_with_a_question_and_a_clause_of_the_contract(check):
    import re

    assert check.question.endswith("?")
    assert check.clauses
    assert all(re.fullmatch(r"[RFSHGLAEC]\d", clause) for clause in check.clauses)
