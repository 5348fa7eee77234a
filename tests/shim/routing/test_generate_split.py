"""Generate by a split: rows of one adapter run together where a rehearsal shows that they stay apart, else alone."""

import peft
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, RwkvConfig, RwkvForCausalLM

NAMES = ["ann", "ben", "ann", "ann"]
IDS = torch.randint(3, 32, (4, 5), generator=torch.Generator().manual_seed(5))
GREEDY = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}


@pytest.fixture(autouse=True)
def _split(installed_shim, split_only):
    torch.manual_seed(0)


def adapted(base, targets):
    config = peft.LoraConfig(r=2, target_modules=targets, task_type="CAUSAL_LM", init_lora_weights=False)
    model = peft.get_peft_model(base, config, adapter_name="ann")
    model.add_adapter("ben", config)
    for path, parameter in model.named_parameters():
        parameter.data = (0.5 if "lora_" in path else 1.0) * torch.randn_like(parameter)
    return model.eval()


def llama(cls=LlamaForCausalLM):
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return adapted(cls(config), ["q_proj", "o_proj", "down_proj"])


def rwkv():
    config = RwkvConfig(
        vocab_size=32, context_length=32, hidden_size=16, num_hidden_layers=2, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, rescale_every=0,
    )  # fmt: skip
    return adapted(RwkvForCausalLM(config), ["key", "value", "receptance"])


def each_alone(model, **settings):
    found = []
    for row, name in enumerate(NAMES):
        model.set_adapter(name)
        found.append(model.generate(input_ids=IDS[row : row + 1], **settings)[0].tolist())
    return found


@pytest.fixture
def batch_sizes(monkeypatch):
    """The number of rows of every call of a Llama's forward."""
    found = []
    forward = LlamaForCausalLM.forward

    def counted(self, *args, **kwargs):
        ids = kwargs.get("input_ids", args[0] if args else None)
        found.append(len(ids))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(LlamaForCausalLM, "forward", counted)
    return found


def test_rows_of_a_model_that_mixes_them_as_it_decodes_go_one_by_one():
    """RWKV adds each sample's state to all samples, from the second token on."""
    model = rwkv()
    mixed = model.generate(input_ids=IDS, adapter_names=NAMES, **GREEDY).tolist()
    assert mixed == each_alone(model, **GREEDY)
    model.set_adapter("ann")
    together = model.generate(input_ids=IDS[[0, 2, 3]], **GREEDY).tolist()
    assert together != [mixed[0], mixed[2], mixed[3]], "here the model mixes nothing"


def test_rows_that_stay_apart_go_together_and_are_rehearsed_once(batch_sizes):
    model = llama()
    for _ in range(2):
        batch_sizes.clear()
        mixed = model.generate(input_ids=IDS, adapter_names=NAMES, **GREEDY)
    assert batch_sizes == [3] * 6 + [1] * 6
    assert mixed.tolist() == each_alone(model, **GREEDY)


def test_rows_of_which_no_two_have_one_adapter_are_not_rehearsed(batch_sizes):
    model = llama()
    model.generate(input_ids=IDS[:2], adapter_names=["ann", "ben"], **GREEDY)
    assert batch_sizes == [1] * 12


def test_rows_of_a_generate_that_shows_no_scores_go_one_by_one(batch_sizes):
    class Silent(LlamaForCausalLM):
        def generate(self, *args, **kwargs):
            told = super().generate(*args, **{**kwargs, "return_dict_in_generate": False, "output_scores": False})
            batch_sizes.append("end")
            return told

    model = llama(Silent)
    mixed = model.generate(input_ids=IDS, adapter_names=NAMES, **GREEDY)
    assert mixed.tolist() == each_alone(model, **GREEDY)
    batch_sizes.clear()
    model.generate(input_ids=IDS, adapter_names=NAMES, **GREEDY)
    assert batch_sizes[-4 * 7 :] == ([1] * 6 + ["end"]) * 4


def test_a_rehearsal_that_raises_leaves_rows_one_by_one_and_no_trace(batch_sizes):
    class Choosy(LlamaForCausalLM):
        def generate(self, *args, **kwargs):
            if kwargs.get("max_new_tokens") == 2:
                raise RuntimeError("two tokens are too few")
            return super().generate(*args, **kwargs)

    model = llama(Choosy)
    seen = torch.get_rng_state()
    mixed = model.generate(input_ids=IDS, adapter_names=NAMES, **GREEDY)
    assert torch.equal(torch.get_rng_state(), seen)
    assert set(batch_sizes) == {1}
    assert mixed.tolist() == each_alone(model, **GREEDY)


def test_the_callers_own_rules_are_not_asked_in_a_rehearsal():
    asked = []

    def allowed(sample, tokens):
        asked.append(sample)
        return list(range(3, 32))

    llama().generate(input_ids=IDS, adapter_names=NAMES, prefix_allowed_tokens_fn=allowed, **GREEDY)
    assert asked == [0, 2, 3] * 6 + [1] * 6


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
def test_beams_end_as_those_of_the_row_alone(early_stopping):
    """With many tokens that end a row: transformers 4.50 to 4.53 search on where another row is not done."""
    torch.manual_seed(1)
    model, ends = llama(), list(range(2, 8))
    settings = {
        "num_beams": 3, "max_new_tokens": 12, "eos_token_id": ends, "pad_token_id": 0, "do_sample": False,
        "early_stopping": early_stopping, "length_penalty": 2.0,
    }  # fmt: skip

    def tokens(row):
        new = row[IDS.shape[1] :]
        return new[: next((place for place, token in enumerate(new) if token in ends), len(new))]

    mixed = model.generate(input_ids=IDS, adapter_names=NAMES, **settings).tolist()
    lengths = [len(tokens(row)) for row in mixed]
    assert [tokens(row) for row in mixed] == [tokens(row) for row in each_alone(model, **settings)]
    assert len(set(lengths)) > 1, "every row ends with the others"
