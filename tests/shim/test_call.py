"""A call with `adapter_names`, as users make it: positions, caches, hooks, compilation, task models."""

import copy
import warnings

import peft
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

import shim
from shim import graphs

NAMES = ["ann", "__base__", "ben", "ann"]
OLD_TORCH = not hasattr(torch, "compiler") or not hasattr(torch.compiler, "is_compiling")


@pytest.fixture(autouse=True)
def _shim(installed_shim):
    torch.manual_seed(0)
    return installed_shim


def randomize(model):
    for path, parameter in model.named_parameters():
        if {"ann", "ben"} & set(path.split(".")):
            parameter.data = 0.4 * torch.randn_like(parameter)
    return model.eval()


def llama(**config):
    base = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=48, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2, initializer_range=0.4, **config,
        )
    )  # fmt: skip
    lora = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")
    model = peft.get_peft_model(base, lora, adapter_name="ann")
    model.add_adapter("ben", lora)
    return randomize(model)


def tokens(samples=4, length=5):
    return torch.randint(3, 48, (samples, length), generator=torch.Generator().manual_seed(3))


def alone(model, name, *args, call=None, **kwargs):
    run = call or model
    with torch.no_grad():
        if name == "__base__":
            with model.disable_adapter():
                return run(*args, **kwargs)
        model.set_adapter(name)
        return run(*args, **kwargs)


def assert_rows(observed, model, value, *args, **kwargs):
    for row, name in enumerate(NAMES):
        expected = value(alone(model, name, *args, **kwargs))[row]
        torch.testing.assert_close(observed[row], expected, rtol=1e-4, atol=1e-4)


def test_inputs_may_be_given_by_position():
    model = llama()
    with torch.no_grad():
        observed = model(tokens(), torch.ones(4, 5, dtype=torch.long), adapter_names=NAMES)
    assert_rows(observed.logits, model, lambda output: output.logits, tokens())


def test_a_tuple_is_returned_where_a_tuple_is_asked_for():
    model = llama()
    with torch.no_grad():
        observed = model(input_ids=tokens(), return_dict=False, adapter_names=NAMES)
    assert isinstance(observed, tuple)
    assert_rows(observed[0], model, lambda output: output[0], tokens(), return_dict=False)


def test_a_cache_is_filled_in_place_and_goes_on():
    from transformers import DynamicCache

    model, cache = llama(), DynamicCache()
    first, second = tokens(length=4), tokens(length=1)
    alone(model, "ann", input_ids=first, past_key_values=cache, use_cache=True)
    if cache.get_seq_length() != 4:
        pytest.skip("this transformers fills a copy of the cache")
    cache = DynamicCache()
    with torch.no_grad():
        model(input_ids=first, past_key_values=cache, use_cache=True, adapter_names=NAMES)
        assert cache.get_seq_length() == 4
        observed = model(
            input_ids=second, past_key_values=cache, use_cache=True, adapter_names=NAMES,
            attention_mask=torch.ones(4, 5, dtype=torch.long),
            position_ids=torch.full((4, 1), 4),
        )  # fmt: skip
    assert cache.get_seq_length() == 5
    assert_rows(observed.logits[:, 0], model, lambda o: o.logits[:, -1], torch.cat([first, second], 1))


def test_a_failed_call_leaves_the_callers_cache_alone():
    from transformers import DynamicCache

    model, cache = llama(), DynamicCache()
    with torch.no_grad():
        model(input_ids=tokens(length=4), past_key_values=cache, use_cache=True, adapter_names=NAMES)

    length = cache.get_seq_length(0)

    def fail(module, args):
        raise MemoryError

    last = model.base_model.model.model.layers[-1].mlp
    for names in (NAMES, ["ann"] * 4):
        handle = last.register_forward_pre_hook(fail)
        with pytest.raises(MemoryError), torch.no_grad():
            model(input_ids=tokens(length=1), past_key_values=cache, use_cache=True, adapter_names=names)
        handle.remove()
        assert cache.get_seq_length(0) == length


def test_hooks_of_the_caller_on_the_model_see_the_whole_batch_once():
    model, seen = llama(), []
    model.register_forward_hook(lambda module, args, output: seen.append(output.logits.shape[0]))
    with torch.no_grad():
        model(input_ids=tokens(), adapter_names=NAMES)
    assert seen == [4]


def test_a_call_without_names_inside_a_mixed_call_is_a_call_of_its_own():
    model, seen = llama(), []
    model.set_adapter("ben")
    expected = alone(model, "ben", tokens()).logits

    def nested(module, args):
        if not seen:
            seen.append(None)
            seen.append(model(input_ids=tokens()).logits)

    model.base_model.model.model.layers[0].mlp.register_forward_pre_hook(nested)
    with torch.no_grad():
        model(input_ids=tokens(), adapter_names=NAMES)
    torch.testing.assert_close(seen[1], expected)


def test_another_models_adapters_of_the_same_names_keep_their_own_state():
    model, other = llama(), llama()
    other.set_adapter("ben")
    expected, seen = alone(other, "ben", tokens()).logits, []
    hook = lambda module, args: seen.append(other.base_model.model(input_ids=tokens()).logits)  # noqa: E731
    model.base_model.model.model.layers[0].mlp.register_forward_pre_hook(hook)
    with torch.no_grad():
        model(input_ids=tokens(), adapter_names=NAMES)
    assert len(seen) > 1
    for logits in seen:
        torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize("names", [["ann"] * 4, NAMES])
def test_labels_are_for_one_adapter_only(names):
    model, labels = llama(), tokens()
    if names == NAMES:
        with pytest.raises(shim.RefusedError, match="'loss'"):
            model(input_ids=tokens(), labels=labels, adapter_names=names)
    else:
        expected = alone(model, "ann", tokens(), labels=labels).loss
        with torch.no_grad():
            torch.testing.assert_close(model(input_ids=tokens(), labels=labels, adapter_names=names).loss, expected)


def task_model():
    base = BertForSequenceClassification(
        BertConfig(
            vocab_size=48, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=16, num_labels=3,
        )
    )  # fmt: skip
    config = peft.LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS")
    model = peft.get_peft_model(base, config, adapter_name="ann")
    model.add_adapter("ben", copy.deepcopy(config))
    return model


def test_a_task_model_with_its_own_heads():
    model = randomize(task_model())
    with torch.no_grad():
        observed = model(input_ids=tokens(), adapter_names=NAMES).logits
    assert_rows(observed, model, lambda output: output.logits, input_ids=tokens())


def test_heads_of_different_sizes_share_a_batch_where_each_sample_has_an_output_of_its_own():
    model = task_model()
    model.get_base_model().classifier.modules_to_save["ben"] = nn.Linear(16, 7)
    randomize(model)
    with torch.no_grad():
        with pytest.raises(shim.RefusedError, match="per_sample=True"):
            model(input_ids=tokens(), adapter_names=NAMES)
        outputs = model(input_ids=tokens(), adapter_names=NAMES, per_sample=True)
    assert [tuple(output.logits.shape) for output in outputs] == [(1, 3), (1, 3), (1, 7), (1, 3)]
    for row, name in enumerate(NAMES):
        expected = alone(model, name, input_ids=tokens()[row : row + 1]).logits
        torch.testing.assert_close(outputs[row].logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(OLD_TORCH, reason="torch.compile is not told apart here before torch 2.1")
def test_compiling_for_plain_calls_still_works():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(nn.Sequential(nn.Linear(3, 3)), peft.LoraConfig(r=1, target_modules=["0"]))
        x = torch.randn(2, 3)
        shim.uninstall()
        try:
            torch.compile(model.eval(), backend="eager", fullgraph=True)(x)
        except torch._dynamo.exc.Unsupported:
            pytest.skip("this torch makes no full graph of PEFT's own forward")
        finally:
            shim.install()
            torch._dynamo.reset()
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), model(x))


@pytest.mark.skipif(OLD_TORCH, reason="torch.compile is not told apart here before torch 2.1")
def test_a_mixed_call_through_a_compiled_model_is_right_or_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = peft.LoraConfig(r=1, target_modules=["0"], init_lora_weights=False)
        model = peft.get_peft_model(nn.Sequential(nn.Linear(3, 3)), config, adapter_name="ann")
        model.add_adapter("ben", config)
        x, names = torch.randn(2, 3), ["ben", "ann"]
        expected = torch.stack([alone(model.eval(), name, x)[row] for row, name in enumerate(names)])
        compiled = torch.compile(model, backend="eager")
        with torch.no_grad():
            compiled(x)  # a plain call first, whose graph a mixed call must not reuse
            torch.testing.assert_close(compiled(x, adapter_names=names), expected)
            model.base_model.model = torch.compile(model.base_model.model, backend="eager")
            if graphs.can_serve():
                torch.testing.assert_close(model(x, adapter_names=names), expected)
            else:
                with pytest.raises(shim.RefusedError, match=r"compiled"):
                    model(x, adapter_names=names)


class Experts(nn.Module):
    """A weight that no linear layer holds."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, x):
        return x @ self.weight


@pytest.mark.skipif(not hasattr(peft.LoraConfig, "target_parameters"), reason="PEFT has no target_parameters yet")
def test_parameters_adapted_in_place_are_exact_and_left_as_they_were():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = peft.LoraConfig(r=1, target_modules=[], target_parameters=["0.weight"], init_lora_weights=False)
        model = peft.get_peft_model(nn.Sequential(Experts()), config, adapter_name="ann")
        x = torch.randn(2, 4)
        with torch.no_grad():
            before = alone(model.eval(), "__base__", x)
            mixed = model(x, adapter_names=["__base__", "ann"])
            torch.testing.assert_close(mixed[0], before[0])
            torch.testing.assert_close(mixed[1], alone(model, "ann", x)[1])
            assert torch.equal(alone(model, "__base__", x), before)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_an_adapter_added_after_eval_is_refused_only_where_it_drops_out(dropout):
    model = llama()
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", lora_dropout=dropout)
    model.add_adapter("cat", config)  # PEFT leaves its dropout in training mode
    assert not model.training
    with torch.no_grad():
        if dropout:
            with pytest.raises(shim.RefusedError, match=r"lora_dropout\.cat in training mode"):
                model(input_ids=tokens(), adapter_names=["cat", *NAMES[1:]])
            model(input_ids=tokens(), adapter_names=NAMES)  # which do not use it
            model.eval()
        model(input_ids=tokens(), adapter_names=["cat", *NAMES[1:]])


def test_a_layer_left_in_training_mode_is_refused_by_name():
    model = llama()
    model.base_model.model.model.layers[0].train()
    with pytest.raises(shim.RefusedError, match=r"base_model\.model\.model\.layers\.0 in training mode"):
        model(input_ids=tokens(), adapter_names=NAMES)


def test_a_model_may_name_several_main_inputs(installed_shim):
    """As OneFormer does: `["pixel_values", "task_inputs"]`."""
    model = llama()
    model.get_base_model().main_input_name = ["pixel_values", "input_ids"]
    with pytest.raises(shim.AdapterNamesError, match="input_ids has shape"):
        model(input_ids=tokens(), adapter_names=["ann"])
