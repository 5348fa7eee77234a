"""Trainer predicts and evaluates with one adapter for each example, and generates by Seq2SeqTrainer."""

import pickle
import warnings

import numpy as np
import peft
import pytest
import torch
import transformers
from transformers import BertConfig, BertForSequenceClassification, T5Config, T5ForConditionalGeneration

import shim

NAMES = ["ann", "__base__", "ben", "ann", "ben"]


@pytest.fixture(autouse=True)
def _shim(installed_shim):
    torch.manual_seed(0)
    yield installed_shim
    shim.install()  # the policy that holds by default
    shim.uninstall()


def adapted(model, targets, own):
    lora = peft.LoraConfig(r=2, target_modules=targets)
    if own:
        model.add_adapter(lora, adapter_name="ann")
        model.add_adapter(peft.LoraConfig(r=3, target_modules=targets), adapter_name="ben")
    else:
        model = peft.get_peft_model(model, lora, adapter_name="ann")
        model.add_adapter("ben", lora)
    for path, parameter in model.named_parameters():
        if {"ann", "ben"} & set(path.split(".")):
            parameter.data = 0.6 * torch.randn_like(parameter)
    return model.eval()


def classifier(own=True):
    config = BertConfig(
        vocab_size=48, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        initializer_range=0.5,
    )  # fmt: skip
    return adapted(BertForSequenceClassification(config), ["query", "value"], own)


def translator(own=True):
    config = T5Config(
        vocab_size=48, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, decoder_start_token_id=0,
        pad_token_id=0, eos_token_id=1, initializer_factor=3.0,
    )  # fmt: skip
    return adapted(T5ForConditionalGeneration(config), ["q", "v", "wi"], own)


def examples(names=NAMES, **more):
    ids = torch.randint(3, 48, (len(names), 5), generator=torch.Generator().manual_seed(1)).tolist()
    return [{"input_ids": row, "adapter_names": name, **more} for row, name in zip(ids, names)]


def predict(model, dataset, tmp_path, trainer="Trainer", **arguments):
    settings = getattr(transformers, "Seq2SeqTrainingArguments" if trainer == "Seq2SeqTrainer" else "TrainingArguments")
    args = settings(
        output_dir=str(tmp_path), per_device_eval_batch_size=2, remove_unused_columns=False, report_to=[], use_cpu=True,
        disable_tqdm=True, **arguments,
    )  # fmt: skip
    collator = shim.DataCollatorWithAdapterNames(transformers.default_data_collator)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            made = getattr(transformers, trainer)(model, args, data_collator=collator)
        except TypeError as error:
            if "dispatch_batches" in str(error):
                pytest.skip("this accelerate is too new for the Trainer of this transformers")
            raise
        return made.predict(dataset)


@pytest.mark.parametrize("own", [True, False], ids=["own", "peft"])
def test_predict_gives_each_example_its_own_adapter(own, tmp_path):
    model = classifier(own)
    mixed = predict(model, examples(), tmp_path).predictions
    whole = {name: predict(model, examples([name] * 5), tmp_path).predictions for name in set(NAMES)}
    for row, name in enumerate(NAMES):
        np.testing.assert_allclose(mixed[row], whole[name][row], rtol=1e-4, atol=1e-5)
        for other in set(NAMES) - {name}:
            assert abs(whole[other][row] - whole[name][row]).max() > 1e-2


def test_one_name_is_that_adapter_active(tmp_path):
    model = classifier()
    named = predict(model, examples(["ben"] * 5), tmp_path).predictions
    model.set_adapter("ben")
    with torch.no_grad():
        want = model(torch.tensor([example["input_ids"] for example in examples()])).logits
    np.testing.assert_allclose(named, want.numpy(), rtol=1e-4, atol=1e-5)


def test_a_loss_is_refused_until_it_is_allowed_and_is_then_that_of_the_rows(tmp_path):
    model = classifier()
    with pytest.raises(shim.RefusedError, match=r"mixed_outputs=\['loss'\]"):
        predict(model, examples(labels=1), tmp_path)
    shim.install(mixed_outputs=["loss"])
    found = predict(model, examples(labels=1), tmp_path)
    logits = torch.tensor(found.predictions)
    loss = torch.nn.functional.cross_entropy(logits, torch.ones(5, dtype=torch.long))
    assert abs(found.metrics["test_loss"] - loss.item()) < 1e-4


@pytest.mark.parametrize("own", [True, False], ids=["own", "peft"])
def test_seq2seq_trainer_generates_each_example_by_its_own_adapter(own, tmp_path):
    model = translator(own)
    more = {"trainer": "Seq2SeqTrainer", "predict_with_generate": True, "generation_max_length": 6}
    mixed = predict(model, examples(), tmp_path, **more).predictions
    whole = {name: predict(model, examples([name] * 5), tmp_path, **more).predictions for name in set(NAMES)}
    for row, name in enumerate(NAMES):
        own_tokens = [token for token in whole[name][row].tolist() if token > 0]
        assert [token for token in mixed[row].tolist() if token > 0] == own_tokens
    assert whole["ann"].tolist() != whole["ben"].tolist()


def test_an_example_without_a_name_is_refused_and_told_why():
    collator = shim.DataCollatorWithAdapterNames(transformers.default_data_collator)
    with pytest.raises(shim.AdapterNamesError, match=r"example 1 .*remove_unused_columns=False"):
        collator([{"input_ids": [1], "adapter_names": "ann"}, {"input_ids": [1]}])


def test_another_column_may_hold_the_names_and_the_examples_stay_as_they_are():
    collator = pickle.loads(pickle.dumps(shim.DataCollatorWithAdapterNames(transformers.default_data_collator, "who")))
    given = [{"input_ids": [1, 2], "who": "ann"}, {"input_ids": [3, 4], "who": "ben"}]
    batch = collator(given)
    assert list(batch) == ["input_ids", "adapter_names"]
    assert batch["adapter_names"] == ["ann", "ben"]
    assert batch["input_ids"].tolist() == [[1, 2], [3, 4]]
    assert [list(example) for example in given] == [["input_ids", "who"]] * 2
