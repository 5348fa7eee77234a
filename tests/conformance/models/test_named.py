"""What a user names is a model with inputs that it runs on, or an error that says what is missing."""

import re
import sys

import peft
import pytest
import torch
import transformers

from conformance.models.named import SAMPLES, made_by, raised
from conformance.models.own import own_model
from conformance.selection import CannotLoad
from tests.conformance import own_models

HERE = "tests.conformance.own_models"
ODD = "tests.conformance.odd_models"


@pytest.mark.parametrize(
    ("spec", "architecture", "names"),
    [
        (f"{HERE}:module", "Pooling", {"x"}),
        (f"{HERE}:model_alone", "LlamaForCausalLM", {"input_ids", "attention_mask"}),
        (f"{HERE}:configuration", "ViTForImageClassification", {"pixel_values"}),
        ("transformers:BertForSequenceClassification", "BertForSequenceClassification", {"input_ids"}),
        ("transformers:MobileViTForImageClassification", "MobileViTForImageClassification", {"pixel_values"}),
        ("transformers:GPT2Config", "GPT2Model", {"input_ids"}),
    ],
)
def test_a_model_comes_with_inputs_that_it_runs_on(spec, architecture, names):
    model, inputs = made_by(spec)
    assert type(model).__name__ == architecture
    assert names <= set(inputs)
    assert len({len(value) for value in inputs.values()}) == 1
    with torch.no_grad():
        model.eval()(**inputs)


def test_inputs_are_those_of_a_small_batch_and_always_the_same():
    (model, inputs), (again, same) = (made_by("transformers:BertModel") for _ in range(2))
    assert len(inputs["input_ids"]) == SAMPLES
    assert torch.equal(inputs["input_ids"], same["input_ids"])
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values()))


def test_a_checkpoint_keeps_its_weights(tmp_path):
    saved = own_models.causal()[0]
    saved.save_pretrained(tmp_path)
    model, _ = made_by(str(tmp_path))
    assert type(model) is type(saved)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in saved.state_dict().items())
    assert own_model(f"own:{tmp_path}").tags == {"causal-lm", "generates"}


def test_inputs_are_what_a_tokenizer_returns_too():
    _, inputs = made_by(f"{ODD}:encoded")
    assert type(inputs) is dict
    assert set(inputs) == {"input_ids", "attention_mask"}
    assert list(made_by(f"{ODD}:listed")[1]) == ["x"]


def test_a_module_beside_the_user_is_found_from_any_entry_point(tmp_path, monkeypatch):
    (tmp_path / "module_of_this_folder.py").write_text("from tests.conformance.own_models import module as build\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    model, _ = made_by("module_of_this_folder:build")
    assert type(model) is own_models.Pooling
    assert sys.path.count(str(tmp_path)) == 1


def test_an_error_is_placed_in_the_users_own_code():
    with pytest.raises(CannotLoad, match=r"raised RuntimeError: no weights here \[.*own_models\.py:\d+\]"):
        made_by(f"{HERE}:raising")
    with pytest.raises(TypeError) as caught:
        own_models.module()[0](nothing=1)
    assert re.search(r"test_named\.py:\d+\]$", raised(caught.value))


def test_an_adapter_is_not_taken_for_a_model(tmp_path):
    peft.get_peft_model(own_models.causal()[0], peft.LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path)
    with pytest.raises(CannotLoad, match="adapter of PEFT"):
        made_by(str(tmp_path))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("no.such.package:build", "folder of a checkpoint"),
        (f"{HERE}:Pooling", "returned Pooling"),
        (f"{HERE}:nothing", "should return"),
        (f"{HERE}:raising", "no weights here"),
        ("/no/such/folder", "folder of a checkpoint"),
        (f"{ODD}:positional", r"the inputs a dict by argument name, but returned them as a tuple\. Name them"),
        (f"{ODD}:tensor", "the inputs a dict by argument name, but returned them as a Tensor"),
        (f"{ODD}:triple", "but returned 3 things: Odd, dict, str"),
        (f"{ODD}:exchanged", "but returned a dict as model, which is no torch.nn.Module"),
    ],
)
def test_what_cannot_be_had_is_said(spec, said):
    with pytest.raises(CannotLoad, match=said):
        made_by(spec)


@pytest.mark.skipif(not hasattr(transformers, "Qwen2VLModel"), reason="this transformers has no Qwen2-VL")
def test_images_that_are_packed_must_be_given():
    with pytest.raises(CannotLoad, match="would not be one entry per sample"):
        made_by("transformers:Qwen2VLForConditionalGeneration")


def test_a_folder_without_a_checkpoint_is_said(tmp_path):
    with pytest.raises(CannotLoad, match="should hold a checkpoint"):
        made_by(str(tmp_path))
