"""Which methods there are, and that each makes a configuration of the installed PEFT."""

import pytest

from conformance.methods.kinds import FACTS, MODELS, VARIANTS, Method, methods
from conformance.selection import UnknownChoiceError, chosen_entries, chosen_models, sweeps

NAMES = [method.name for method in methods()]


def test_every_method_that_peft_registers_is_there_once():
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    types = {str(getattr(key, "value", key)) for key in PEFT_TYPE_TO_CONFIG_MAPPING}
    assert {f"method:{name}" for name in types} <= set(NAMES)
    assert len(NAMES) == len(set(NAMES))
    assert set(MODELS) <= set(VARIANTS)
    assert "LORA" not in FACTS


@pytest.mark.parametrize("method", [method for method in methods() if method.variant], ids=lambda method: method.name)
def test_a_variant_is_what_it_says(method):
    config = method.configuration()
    for field in VARIANTS[method.variant]:
        assert getattr(config, field)
    assert method.clauses == ("L2",)


def test_virtual_tokens_are_as_many_as_there_are_or_as_told():
    assert Method("PROMPT_TUNING").configuration().num_virtual_tokens == 3
    assert not hasattr(Method("LORA").configuration(), "num_virtual_tokens")


def test_methods_are_chosen_by_name_or_all_and_are_no_models():
    assert [entry.name for entry in chosen_entries("methods")] == NAMES
    assert [entry.name for entry in chosen_entries("method:IA3")] == ["method:IA3"]
    assert {"method:LORA", "method:LORA+ranks"} <= {entry.name for entry in chosen_entries("method:LORA")}
    assert chosen_models("methods") == chosen_models("method:LORA") == []
    assert sweeps("bert, method:IA3")
    assert not sweeps("tiny")


def test_an_unknown_method_is_told_those_there_are():
    with pytest.raises(UnknownChoiceError, match="no method is called method:NONE"):
        chosen_entries("method:NONE")
