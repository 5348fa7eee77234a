import pytest

from conformance.settings import Settings


@pytest.mark.parametrize("examples", [0, -1])
def test_a_run_without_scenarios_is_refused(examples):
    with pytest.raises(ValueError, match=f"examples is {examples}, but should be at least 1"):
        Settings(examples=examples)
    assert Settings(examples=1).examples == 1
