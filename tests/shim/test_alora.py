"""A call that raises leaves none of aLoRA's hooks, and takes off no other call's."""

import threading

import peft
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from shim.versions import in_range
from tests.tiny_models import SMALL, adapted

NAMES = ["fr", "de", "__base__"]
INVOKED = [7, 8]
FIRST = torch.tensor([[4, 9, 7, 8, 5, 6], [5, 7, 8, 9, 4, 6], [9, 4, 5, 7, 8, 6]])
SECOND = FIRST.flip(0)

pytestmark = pytest.mark.skipif(
    not hasattr(peft.peft_model, "get_alora_offsets_for_forward") or not in_range("transformers", ">=4.52.1"),
    reason="this PEFT has no aLoRA, or these transformers none for it",
)


def build():
    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(**SMALL))
    return adapted(base, ["q_proj", "v_proj"], task_type="CAUSAL_LM", alora_invocation_tokens=INVOKED)


@pytest.fixture
def model(installed_shim):
    return build()


def hooks(model):
    kinds = ("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_forward_hooks", "_backward_hooks")
    return sum(len(vars(module).get(kind, ())) for module in model.modules() for kind in kinds)


def raises(model, call, error=KeyError):
    def fail(*_):
        raise KeyError("in the midst")

    handle = model.get_base_model().model.layers[-1].register_forward_hook(fail)
    with pytest.raises(error):
        call()
    handle.remove()


def inputs(tokens):
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


CALLS = {
    "mixed": lambda model: model(**inputs(FIRST), adapter_names=NAMES),
    "one name": lambda model: model(**inputs(FIRST), adapter_names=["fr"] * 3),
    "no names": lambda model: model(**inputs(FIRST)),
    "generate": lambda model: model.generate(**inputs(FIRST), max_new_tokens=2, adapter_names=NAMES),
    "generate without names": lambda model: model.generate(**inputs(FIRST), max_new_tokens=2),
}


@pytest.mark.parametrize("call", list(CALLS))
def test_a_call_that_raises_leaves_no_hook(model, call):
    raises(model, lambda: CALLS[call](model))
    assert hooks(model) == 0
    with torch.no_grad():
        embeddings = {"inputs_embeds": torch.randn(2, 6, 16)}  # of which upstream knows no offsets
        assert torch.equal(model(**embeddings).logits, build()(**embeddings).logits)
        expected = build()(**inputs(SECOND), adapter_names=NAMES).logits
        assert torch.equal(model(**inputs(SECOND), adapter_names=NAMES).logits, expected)


def test_hooks_that_upstream_put_on_before_it_refused_are_taken_off(model):
    with pytest.raises(ValueError, match="Beam search"):
        model.generate(**inputs(FIRST), max_new_tokens=2, num_beams=2)
    assert hooks(model) == 0


def test_hooks_of_checkpointed_blocks_are_taken_off(model):
    model.train()
    model.gradient_checkpointing_enable()
    before = hooks(model)  # transformers has one of its own then
    raises(model, lambda: model(**inputs(FIRST)))
    assert hooks(model) == before
    model(**inputs(FIRST)).logits.sum().backward()  # upstream refuses where some are left


def test_another_threads_hooks_stay(model):
    began, failed = threading.Event(), threading.Event()
    found = []

    def wait(*_):
        if threading.current_thread() is other:
            began.set()
            failed.wait(60)

    def run():
        with torch.no_grad():
            found.append(model(**inputs(SECOND)).logits)

    other = threading.Thread(target=run)
    with torch.no_grad():
        expected = model(**inputs(SECOND)).logits
    handle = model.get_base_model().model.layers[0].register_forward_pre_hook(wait)
    other.start()
    assert began.wait(60)
    before = hooks(model)
    raises(model, lambda: CALLS["no names"](model))
    assert hooks(model) == before
    failed.set()
    other.join()
    handle.remove()
    assert torch.equal(found[0], expected)
    assert hooks(model) == 0
