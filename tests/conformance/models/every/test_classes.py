import subprocess
import sys

import pytest

from conformance.models.every.classes import BASE_PART, HEAD_PART, Entry, entries


@pytest.fixture(scope="module")
def every():
    return entries()


def test_names_are_unique_and_sorted(every):
    names = [entry.name for entry in every]
    assert names == sorted(set(names))


def test_every_registered_type_is_there(every):
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    types = {entry.model_type for entry in every}
    assert types >= {*CONFIG_MAPPING_NAMES, *MODEL_MAPPING_NAMES}
    bases = {entry.model_type: entry.architecture for entry in every if entry.part == BASE_PART}
    for model_type, architecture in MODEL_MAPPING_NAMES.items():
        assert bases[model_type] in ([architecture] if isinstance(architecture, str) else architecture)


@pytest.mark.parametrize(
    ("model_type", "part", "architecture"),
    [
        ("llama", BASE_PART, "LlamaModel"),
        ("llama", HEAD_PART, "LlamaForCausalLM"),
        ("t5", HEAD_PART, "T5ForConditionalGeneration"),
        ("swin", HEAD_PART, "SwinForImageClassification"),
        ("whisper", HEAD_PART, "WhisperForConditionalGeneration"),
        ("bart", HEAD_PART, "BartForConditionalGeneration"),
    ],
)
def test_first_sensible_head(every, model_type, part, architecture):
    assert Entry(model_type, part, architecture) in every


def test_a_head_is_not_the_base_class_again(every):
    bases = {(entry.model_type, entry.architecture) for entry in every if entry.part == BASE_PART}
    assert not [e for e in every if e.part == HEAD_PART and (e.model_type, e.architecture) in bases]


def test_a_type_without_a_class_is_listed_all_the_same(every):
    assert any(entry.architecture == "" and entry.name.startswith("every:") for entry in every)


@pytest.mark.parametrize("module", ["classes", "configs", "build", "inputs", "targets", "wide", "facts"])
def test_importing_costs_nothing(module):
    if module == "inputs":
        module = "feed"
    code = (
        f"import conformance.models.every.{module}, conformance.sweep.entry, sys\n"
        "print([name for name in ('torch', 'transformers', 'peft') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True)
    assert done.stdout.strip() == "[]"
