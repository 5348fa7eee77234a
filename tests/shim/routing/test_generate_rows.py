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


@pytest.fixture
def rwkv(installed_shim):
    """A model that mixes its samples in every step of generate but the first: upstream's, by broadcasting."""
    if not hasattr(transformers, "RwkvForCausalLM"):
        pytest.skip("transformers has no RWKV before 4.29")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "attention_hidden_size": 16, "num_hidden_layers": 2, "context_length": 32}
    base = transformers.RwkvForCausalLM(transformers.RwkvConfig(vocab_size=32, **sizes))
    config = peft.LoraConfig(r=2, target_modules=["key", "output"], init_lora_weights=False)
    model = peft.get_peft_model(base.double(), config, adapter_name="ann")
    model.add_adapter("ben", config)
    return model.double().eval()


SETTINGS = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
IDS = torch.randint(3, 32, (2, 5), generator=torch.Generator().manual_seed(5))


def test_a_model_that_mixes_its_samples_in_later_steps_generates_in_parts(rwkv):
    mixed = rwkv.generate(input_ids=IDS, adapter_names=["ann", "ben"], **SETTINGS)
    for row, name in enumerate(["ann", "ben"]):
        rwkv.set_adapter(name)
        assert mixed[row].tolist() == rwkv.generate(input_ids=IDS[row : row + 1], **SETTINGS)[0].tolist()


def test_where_nothing_may_be_split_it_is_refused(rwkv):
    shim.install(fallback="refuse")
    with pytest.raises(shim.RefusedError, match="mixes samples: add"):
        rwkv.generate(input_ids=IDS, adapter_names=["ann", "ben"], **SETTINGS)
