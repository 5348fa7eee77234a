"""A pipeline gives each input its own adapter, whatever the batch size, on both kinds of models."""

import warnings
from contextlib import suppress

import peft
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, LlamaConfig, PreTrainedTokenizerFast, pipeline

import shim

WORDS = "[PAD] [UNK] [BOS] [EOS] a bird cat dog eats fish green house in red runs sees the tree".split()
TEXTS = ["the cat sees a bird", "dog runs", "a fish", "the green tree in the house", "red bird eats"]
NAMES = ["ann", "__base__", "ben", "ann", "ben"]
SMALL = {
    "vocab_size": len(WORDS), "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "initializer_range": 0.5, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3,
}  # fmt: skip
TASKS = {
    "text-classification": ("BertForSequenceClassification", BertConfig, ["query", "value"]),
    "token-classification": ("BertForTokenClassification", BertConfig, ["query", "value"]),
    "feature-extraction": ("BertModel", BertConfig, ["query", "value"]),
    "text-generation": ("LlamaForCausalLM", LlamaConfig, ["q_proj", "v_proj", "down_proj"]),
}
CALL = {"text-classification": {"top_k": None}, "text-generation": {"max_new_tokens": 4, "do_sample": False}}


@pytest.fixture(autouse=True)
def _shim(installed_shim):
    torch.manual_seed(0)
    return installed_shim


def tokenizer():
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", bos_token="[BOS]", eos_token="[EOS]",
        padding_side="left",
    )  # fmt: skip


def adapted(task, own):
    architecture, config, targets = TASKS[task]
    model = getattr(transformers, architecture)(config(**SMALL))
    lora = [peft.LoraConfig(r=2, target_modules=targets) for _ in range(2)]
    if own:
        for one, name in zip(lora, ("ann", "ben")):
            model.add_adapter(one, adapter_name=name)
    else:
        model = peft.get_peft_model(model, lora[0], adapter_name="ann")
        model.add_adapter("ben", lora[1])
    for path, parameter in model.named_parameters():
        if {"ann", "ben"} & set(path.split(".")):
            parameter.data = 0.6 * torch.randn_like(parameter)
    return model.eval()


def pipe_for(task, own=True):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pipeline(task, model=adapted(task, own), tokenizer=tokenizer(), device="cpu")


def alone(pipe, **settings):
    """Return what each adapter's own run of all texts gives, in batches of the same size."""
    return {name: pipe(TEXTS, adapter_names=[name] * len(TEXTS), **settings) for name in set(NAMES)}


def flat(value):
    if isinstance(value, dict):
        return [leaf for key in sorted(value) for leaf in flat(value[key])]
    if isinstance(value, (list, tuple)):
        return [leaf for one in value for leaf in flat(one)]
    return [value]


def is_like(one, other):
    one, other = flat(one), flat(other)
    numbers = [(float(a), float(b)) for a, b in zip(one, other) if not isinstance(a, str)]
    texts = [(a, b) for a, b in zip(one, other) if isinstance(a, str)]
    return len(one) == len(other) and texts == [(a, a) for a, _ in texts] and all(abs(a - b) < 1e-4 for a, b in numbers)


@pytest.mark.parametrize("own", [True, False], ids=["own", "peft"])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("task", TASKS)
def test_each_text_gets_its_own_adapter_through_batches_of_any_size(task, batch_size, own):
    pipe = pipe_for(task, own)
    settings = {"batch_size": batch_size, **CALL.get(task, {})}
    mixed = pipe(TEXTS, adapter_names=NAMES, **settings)
    want = alone(pipe, **settings)
    assert len(mixed) == len(TEXTS)
    for row, name in enumerate(NAMES):
        assert is_like(mixed[row], want[name][row]), f"{TEXTS[row]!r} under {name!r}: {mixed[row]}"
    assert any(not is_like(want["ann"][row], want["ben"][row]) for row in range(len(TEXTS)))
    assert any(not is_like(want["ann"][row], want["__base__"][row]) for row in range(len(TEXTS)))


@pytest.mark.parametrize("task", TASKS)
def test_one_adapter_for_all_is_that_adapter_active(task):
    pipe = pipe_for(task)
    want = alone(pipe, **CALL.get(task, {}))
    for name in ("ann", "ben"):
        pipe.model.set_adapter(name)
        assert is_like(pipe(TEXTS, **CALL.get(task, {})), want[name])


@pytest.mark.parametrize("task", TASKS)
def test_a_single_text_takes_a_single_name(task):
    pipe = pipe_for(task)
    settings = CALL.get(task, {})
    single = pipe(TEXTS[0], adapter_names=["ben"], **settings)
    assert is_like(single, pipe([TEXTS[0]], adapter_names=["ben"], **settings)[0])


@pytest.mark.parametrize(
    ("inputs", "names", "error", "says"),
    [
        (TEXTS, NAMES[:2], shim.AdapterNamesError, "is 2, but should be 5"),
        (TEXTS[0], NAMES, shim.AdapterNamesError, "is 5, but should be 1"),
        (TEXTS, "ann", shim.AdapterNamesError, "should be a list"),
        (TEXTS, ["eve"] * 5, shim.UnknownAdapterError, "'eve'"),
    ],
    ids=["few", "many", "string", "unknown"],
)
def test_wrong_names_are_refused(inputs, names, error, says):
    with pytest.raises(error, match=says):
        pipe_for("text-classification")(inputs, adapter_names=names)


def test_a_generator_is_refused_unless_the_pipeline_makes_a_list_of_it():
    pipe = pipe_for("text-classification")
    with suppress(shim.RefusedError):
        assert list(pipe((text for text in TEXTS), adapter_names=NAMES)) == pipe(TEXTS, adapter_names=NAMES)
        return  # transformers 5.5
    with pytest.raises(shim.RefusedError, match=r"generator.*pass a list"):
        list(pipe((text for text in TEXTS), adapter_names=NAMES))


def test_a_model_without_adapters_is_refused():
    pipe = pipe_for("text-classification")
    pipe.model = transformers.BertForSequenceClassification(BertConfig(**SMALL)).eval()
    with pytest.raises(shim.AdapterNamesError, match="should have adapters"):
        pipe(TEXTS, adapter_names=NAMES)


def test_a_pipeline_that_runs_a_part_of_the_model_is_refused():
    pipe = pipe_for("text-classification")

    class Parts(type(pipe)):
        def _forward(self, model_inputs):
            return self.model.get_input_embeddings()(model_inputs["input_ids"])

    pipe.__class__ = Parts
    with pytest.raises(shim.RefusedError, match="runs get_input_embeddings of Bert"):
        pipe(TEXTS, adapter_names=NAMES)


def test_a_call_leaves_the_pipeline_as_it_was():
    pipe = pipe_for("text-classification")
    before = dict(vars(pipe))
    pipe(TEXTS, adapter_names=NAMES, batch_size=2)
    after = dict(vars(pipe))
    before.pop("call_count"), after.pop("call_count")
    assert before.keys() == after.keys()
    assert all(before[key] is after[key] for key in before)


def test_uninstalling_gives_the_call_back():
    mended = transformers.Pipeline.__call__
    shim.uninstall()
    assert transformers.Pipeline.__call__ is mended.__wrapped__
