"""What the checks of saving look at: every copy, and one made in the midst of a call."""

import pytest

from conformance.case import Case
from conformance.checks import saving
from conformance.compare import Mismatch
from conformance.footprint import expect_unchanged
from conformance.models import MODELS
from conformance.scenarios import Adapter, Scenario

INTEGERS = MODELS["integers"]


@pytest.fixture
def case():
    adapters = tuple(Adapter(name, targets=INTEGERS.targets) for name in ("ann", "ben"))
    return Case(INTEGERS, Scenario(adapters, ("ann", "ben"), INTEGERS.lengths[0], "ann", seed=1), "cpu")


def test_every_way_to_copy_gives_the_model_as_it_was(case):
    before = saving._state(case.peft_model)
    for copied in saving._ways(case):
        expect_unchanged(before, saving._state(copied(case.peft_model)), "a copy")


def test_a_copy_of_other_weights_is_seen(case):
    before = saving._state(case.peft_model)
    for copied in saving._ways(case):
        one = copied(case.peft_model)
        next(one.parameters()).data.add_(1)
        with pytest.raises(Mismatch, match="a copy left a trace"):
            expect_unchanged(before, saving._state(one), "a copy")


def test_another_way_comes_first_for_each_seed(case):
    firsts = set()
    for seed in range(3):
        object.__setattr__(case.scenario, "seed", seed)
        firsts.add(saving._ways(case)[0].__name__)
    assert firsts == {"_pickled", "deepcopy", "<lambda>"}


def test_something_is_done_once_and_inside_the_call(case):
    seen = []
    with saving._at_the_first_layer(case.peft_model, lambda: seen.append(1)):
        assert not seen
        case.plain()
        case.plain()
    case.plain()
    assert seen == [1]


def test_what_is_loaded_is_what_was_saved(case, tmp_path):
    before = saving._state(case.peft_model)
    case.peft_model.save_pretrained(str(tmp_path), save_embedding_layers=False)
    loaded = saving._state(saving._loaded(case, tmp_path))
    weights = [path for path in before if path.endswith("lora_A.ann.weight: value")]
    assert weights
    for path in weights:
        assert loaded[path].equal(before[path])
