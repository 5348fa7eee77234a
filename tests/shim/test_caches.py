"""A call that fails leaves the caller's cache as it was, wherever the forward had written by then."""

import copy
import inspect

import pytest
import torch
import transformers
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

import shim
from shim import caches
from shim.caches import failure_restores
from shim.errors import Unroutable
from shim.routing import one_pass, route
from shim.routing.replay import PlanChanged
from shim.routing.tree import leaves
from tests.tiny_models import SMALL, adapted

NAMES = ["fr", "de", "__base__"]
PROMPT = torch.arange(15).view(3, 5) * 5 % 14 + 4
TOKEN = torch.tensor([[4], [9], [6]])
STATIC = getattr(transformers, "StaticCache", None) if hasattr(torch, "_dynamo") else None  # which it marks tensors by


class Switch:
    """A hook that may raise. It is there from the first call on, since plans are made anew for another hook."""

    def __init__(self):
        self.fails_at, self.calls = None, 0

    def __call__(self, module, args):
        self.calls += 1
        if self.calls == self.fails_at:
            raise KeyError("in the midst")

    def raises(self, call, at=1):
        """Let the hook raise where it is called for the `at`-th time inside `call`."""
        self.fails_at, self.calls = at, 0
        with pytest.raises(KeyError, match="in the midst"):
            call()
        self.fails_at = None


def with_switch(base):
    model = adapted(base, ["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model.switch = Switch()
    base.model.layers[-1].mlp.register_forward_pre_hook(model.switch)
    return model


def llama():
    torch.manual_seed(0)
    return with_switch(LlamaForCausalLM(LlamaConfig(**SMALL)))


def sliding():
    torch.manual_seed(0)
    return with_switch(MistralForCausalLM(MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=4)))


def dynamic_cache(model):
    return DynamicCache()


def static_cache(model):
    about = {"config": model.get_base_model().config, "max_cache_len": 12, "max_batch_size": 3, "batch_size": 3}
    about.update(device="cpu", dtype=torch.float32)
    taken = inspect.signature(STATIC.__init__).parameters  # others at every turn of transformers
    return STATIC(**{name: value for name, value in about.items() if name in taken})


CASES = [(llama, dynamic_cache), (llama, static_cache), (sliding, static_cache)]


@pytest.fixture(params=CASES, ids=lambda case: "-".join(part.__name__ for part in case))
def case(request, installed_shim):
    """A model, and what makes a cache for it; a decoding step of the model has been planned."""
    build, make = request.param
    if make is static_cache and STATIC is None:
        pytest.skip("these transformers have no static cache that this torch runs")
    model = build()
    cache = make(model)
    for tokens in (PROMPT, TOKEN):
        step(model, cache, tokens)
    return model, make


def inputs_of(cache, tokens):
    mask = torch.ones(3, tokens.shape[1] + (PROMPT.shape[1] if tokens is TOKEN else 0), dtype=torch.long)
    return {"input_ids": tokens, "attention_mask": mask, "past_key_values": cache, "use_cache": True}


@torch.no_grad()
def step(model, cache, tokens, names=NAMES):
    return model(**inputs_of(cache, tokens), adapter_names=names).logits


def tensors(cache):
    return {path: leaf for path, leaf in leaves(cache) if isinstance(leaf, torch.Tensor)}


@pytest.mark.parametrize("names", [NAMES, ["fr"] * 3], ids=["mixed", "one name"])
def test_a_failed_step_leaves_no_trace_in_the_cache(case, names):
    model, make = case
    cache, other = make(model), make(model)
    for one in (cache, other):
        step(model, one, PROMPT, names)
    held, before = tensors(cache), copy.deepcopy(tensors(cache))
    model.switch.raises(lambda: step(model, cache, TOKEN, names))
    after = tensors(cache)
    assert before.keys() == after.keys()
    assert all(torch.equal(after[path], before[path]) for path in before)
    assert all(after[path] is held[path] for path in before)
    assert torch.equal(step(model, cache, TOKEN, names), step(model, other, TOKEN, names))


def test_a_failed_prompt_leaves_an_empty_cache_empty(case):
    model, make = case
    cache = make(model)
    before = copy.deepcopy(tensors(cache))
    model.switch.raises(lambda: step(model, cache, PROMPT))
    after = tensors(cache)
    assert all(torch.equal(after[path], before[path]) for path in before)
    assert torch.equal(step(model, cache, PROMPT), step(model, make(model), PROMPT))


@pytest.mark.parametrize("reason", [PlanChanged, Unroutable])
def test_what_is_tried_again_begins_where_the_first_try_began(case, reason, monkeypatch):
    """By a plan made anew after `PlanChanged`, else by a split: the first try has filled the cache by then."""
    model, make = case
    cache, other = make(model), make(model)
    for one in (cache, other):
        step(model, one, PROMPT)
    before = copy.deepcopy(tensors(cache))
    expected = step(model, other, TOKEN)
    begun = []

    def noted(run, fails_first=False):
        def noting(*args, **kwargs):
            begun.append(copy.deepcopy(tensors(cache)))
            found = run(*args, **kwargs)
            if fails_first and len(begun) == 1:
                assert any(not torch.equal(now, before[path]) for path, now in tensors(cache).items())
                raise reason("once")
            return found

        return noting

    if shim.explain(model, inputs_of(cache, TOKEN), NAMES).route != "one pass":
        pytest.skip("such caches do not go in one pass here")
    monkeypatch.setattr(one_pass, "run_planned", noted(one_pass.run_planned, fails_first=True))
    monkeypatch.setattr(route, "run_split_forward", noted(route.run_split_forward))
    try:
        torch.testing.assert_close(step(model, cache, TOKEN), expected)
    except shim.RefusedError:  # a count of tokens does not divide by sample
        assert reason is Unroutable
        begun.append(copy.deepcopy(tensors(cache)))
    assert len(begun) >= 2
    assert all(torch.equal(state[path], before[path]) for state in begun[1:] for path in before)


def test_generate_with_the_callers_cache_can_be_tried_again(installed_shim):
    if STATIC is None:
        pytest.skip("these transformers have no static cache that this torch runs")
    model = llama()
    settings = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "adapter_names": NAMES}
    inputs = {"input_ids": PROMPT, "attention_mask": torch.ones_like(PROMPT)}

    def generate(cache):
        model.switch.calls = 0
        return model.generate(**inputs, past_key_values=cache, **settings)

    expected = generate(static_cache(model))
    assert torch.equal(generate(static_cache(model)), expected)
    cache, last = static_cache(model), model.switch.calls
    model.switch.raises(lambda: generate(cache), at=last)
    assert torch.equal(generate(cache), expected)


# ---- by itself


class Own(DynamicCache):
    """A cache that writes over what it holds."""

    def __init__(self):
        super().__init__()
        self.state = torch.zeros(3)
        self.more = {"lists": [torch.ones(2)], "steps": 0}


def fill(cache):
    cache.state.add_(1)
    cache.more["lists"][0].mul_(3)
    cache.more["lists"].append(torch.zeros(1))
    cache.more["steps"] += 1


def fill_and_fail(cache):
    with failure_restores({"cache": cache}):
        fill(cache)
        raise KeyError


@pytest.mark.parametrize("inference", [False, True])
def test_what_is_written_over_is_put_back(inference):
    with torch.inference_mode(inference):
        cache = Own()
        state, inner = cache.state, cache.more["lists"][0]
        with pytest.raises(KeyError):
            fill_and_fail(cache)
        assert cache.state is state
        assert cache.more["lists"] == [inner]
        assert (state.tolist(), inner.tolist(), cache.more["steps"]) == ([0, 0, 0], [1, 1], 0)
        with failure_restores({"cache": cache}):
            fill(cache)
        assert (state.tolist(), inner.tolist(), cache.more["steps"]) == ([1, 1, 1], [3, 3], 1)


def try_twice_and_fail(cache, made):
    with failure_restores({"cache": cache}):
        for _ in range(2):
            with pytest.raises(KeyError):
                fill_and_fail(cache)
            assert cache.state.tolist() == [0, 0, 0]
        assert len(made) == 2
        fill(cache)
        with failure_restores({"cache": cache}):
            assert len(made) == 5  # of what is there now, and of what was added
            fill(cache)
        raise KeyError


def test_a_block_in_a_block_shares_its_copies_while_they_are_good(monkeypatch):
    made = []

    class Counted(caches._Copy):
        def __init__(self, tensor):
            made.append(tensor)
            super().__init__(tensor)

    monkeypatch.setattr(caches, "_Copy", Counted)
    cache = Own()
    with pytest.raises(KeyError):
        try_twice_and_fail(cache, made)
    assert cache.state.tolist() == [0, 0, 0]


def copied_inside(cache):
    with failure_restores({"cache": cache}):
        return [copy._tensor for copy in caches._COPIES.get().values()]


def test_a_decoding_step_copies_no_keys_nor_values(case):
    model, make = case
    cache = make(model)
    step(model, cache, PROMPT)
    if make is static_cache and not all(map(caches._is_counted, getattr(cache, "layers", [cache]))):
        pytest.skip("this static cache does not count its tokens in a tensor, or holds a window of them")
    assert all(tensor.numel() == 1 for tensor in copied_inside(cache))
    assert len(copied_inside(Own())) == 2
