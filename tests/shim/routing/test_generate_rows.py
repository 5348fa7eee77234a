"""The rows of the model calls inside a generate: what mixes them, and the hooks that tell of them met by a thread."""

import peft
import pytest
import torch
import transformers

import shim
from shim.routing.generate_rows import UnitRoute, _hooks


def test_a_call_that_meets_half_a_registration_goes_its_way():
    """torch adds a hook first, and notes that it takes keywords afterwards: in between it is called without."""
    begin, end = _hooks("", UnitRoute(), [])
    module = torch.nn.Linear(2, 2)
    module.register_forward_pre_hook(begin)
    module.register_forward_hook(end)
    x = torch.ones(1, 2)
    assert torch.equal(module(x), torch.nn.functional.linear(x, module.weight, module.bias))


def build(kind, targets, **sizes):
    """Return a causal language model of this kind with the adapters `ann` and `ben`."""
    if not hasattr(transformers, f"{kind}ForCausalLM"):
        pytest.skip(f"this transformers has no {kind}")
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(vocab_size=32, hidden_size=16, num_hidden_layers=2, **sizes)
    config.initializer_range = 0.5
    base = getattr(transformers, f"{kind}ForCausalLM")(config).double()
    adapter = peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False)
    model = peft.get_peft_model(base, adapter, adapter_name="ann")
    model.add_adapter("ben", adapter)
    return model.double().eval()


@pytest.fixture
def rwkv(installed_shim):
    """A model that mixes its samples in every step of generate but the first: upstream's, by broadcasting."""
    return build("Rwkv", ["key", "output"], attention_hidden_size=16, context_length=32)


@pytest.fixture
def mamba(installed_shim):
    """A model whose cache has states and no length."""
    if not hasattr(transformers.cache_utils, "LinearAttentionLayer"):
        pytest.skip("Mamba has a cache of its own before huggingface/transformers#44950")
    shim.install(fallback="refuse")
    return build("Mamba", ["in_proj", "x_proj"], state_size=4, use_mambapy=False)


SETTINGS = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
IDS = torch.randint(3, 32, (2, 5), generator=torch.Generator().manual_seed(5))


def assert_tokens_are_the_rows_own(model):
    mixed = model.generate(input_ids=IDS, adapter_names=["ann", "ben"], **SETTINGS)
    for row, name in enumerate(["ann", "ben"]):
        model.set_adapter(name)
        assert mixed[row].tolist() == model.generate(input_ids=IDS[row : row + 1], **SETTINGS)[0].tolist()


def test_a_model_that_mixes_its_samples_in_later_steps_generates_in_parts(rwkv):
    assert_tokens_are_the_rows_own(rwkv)


def test_where_nothing_may_be_split_it_is_refused(rwkv):
    shim.install(fallback="refuse")
    with pytest.raises(shim.RefusedError, match="mixes samples: add"):
        rwkv.generate(input_ids=IDS, adapter_names=["ann", "ben"], **SETTINGS)


def test_a_cache_without_a_length_is_filled_in_one_pass(mamba):
    assert_tokens_are_the_rows_own(mamba)


def test_a_cache_without_a_length_is_gone_on_with(mamba):
    with torch.no_grad():
        cache = mamba(IDS, use_cache=True, adapter_names=["ann", "ben"]).cache_params
        mixed = mamba(IDS[:, :1], cache_params=cache, use_cache=True, adapter_names=["ann", "ben"]).logits
        for row, name in enumerate(["ann", "ben"]):
            mamba.set_adapter(name)
            own = mamba(IDS[row : row + 1], use_cache=True).cache_params
            logits = mamba(IDS[row : row + 1, :1], cache_params=own, use_cache=True).logits
            torch.testing.assert_close(mixed[row], logits[0], rtol=1e-6, atol=1e-6)
            assert (logits - mamba(IDS[row : row + 1, :1]).logits).abs().max() > 1e-3, "the cache is of no matter"
