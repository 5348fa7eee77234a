"""Models that keep something on themselves from one call to the next: a trace, or a part of a batch, is no call."""

import copy
from collections import deque

import peft
import pytest
import torch
from torch import nn
from transformers import DynamicCache

import shim
from shim.errors import Unroutable
from shim.kept import Kept, kept_by_all, kept_by_keepers
from shim.routing import plans, route
from tests.tiny_models import llama

NAMES = ["ann", "__base__", "ben", "ann"]
X = torch.randn(3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))  # three steps of four samples


class Recurrent(nn.Module):
    """Adds its state to its input, as RecurrentGemma's blocks do; `more` says what else it keeps."""

    def __init__(self, more=lambda module, x: None):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.state, self.steps, self.more = None, 0, more

    def forward(self, x, fails=False):
        if self.state is not None:
            x = x + self.state
        self.state = torch.tanh(self.first(x))
        self.steps += 1
        self.more(self, x)
        if fails:
            raise KeyError("in the midst")
        return self.second(self.state)


def adapted(**options):
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, target_modules=["first", "second"], init_lora_weights=False)
    model = peft.get_peft_model(Recurrent(**options), config, adapter_name="ann")
    model.add_adapter("ben", config)
    return model.double().eval()


def begun(model):
    model.get_base_model().state = None
    return model


def alone(model, row, name):
    begun(model)
    return [model(step[row : row + 1], adapter_names=[name])[0] for step in X]


def check_steps(model, steps=3):
    """Check each step of a mixed batch against the steps of each row by itself."""
    model = model.eval()
    with torch.no_grad():
        own = {name: [alone(model, row, name) for row in range(4)] for name in set(NAMES)}
        begun(model)
        for number, step in enumerate(X[:steps]):
            mixed = model(step, adapter_names=NAMES)
            for row, name in enumerate(NAMES):
                torch.testing.assert_close(mixed[row], own[name][row][number], rtol=1e-9, atol=1e-12)
                others = (own[other][row][number] for other in own if other != name)
                assert all((mixed[row] - other).abs().max() > 1e-4 for other in others)


@pytest.fixture
def always_traced(monkeypatch):
    monkeypatch.setattr(plans, "look_up", lambda *_: None)


@pytest.fixture
def always_split(monkeypatch):
    def run(*_, **__):
        raise Unroutable("not here")

    monkeypatch.setattr(route, "run_one_pass", run)


def test_a_trace_is_no_step(installed_shim, always_traced):
    check_steps(adapted())


def test_the_state_of_a_batch_that_was_split_is_all_rows(installed_shim, always_split):
    model = adapted()
    check_steps(model, steps=1)
    base = model.get_base_model()
    assert base.state.shape == (4, 4)
    state = base.state
    with torch.no_grad():
        for row, name in enumerate(NAMES):
            begun(model)(X[0][row : row + 1], adapter_names=[name])
            torch.testing.assert_close(state[row], base.state[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("names", [NAMES, ["ann", "ben", "__base__", "ann"]])
def test_a_step_that_would_be_split_is_not_taken(names, installed_shim, always_split):
    model = adapted()
    with torch.no_grad():
        model(X[0], adapter_names=names)
        before = model.get_base_model().state
        with pytest.raises((shim.RefusedError, RuntimeError)):  # a part of the batch meets the state of the whole
            model(X[1], adapter_names=names)
    assert model.get_base_model().state is before


def test_explaining_is_no_step(installed_shim):
    model = adapted()
    base = model.get_base_model()
    with torch.no_grad():
        model(X[0], adapter_names=NAMES)
        before = (base.state, base.steps)
        shim.explain(model, {"x": X[0][:, :2].repeat(1, 2)}, NAMES)
    assert (base.state, base.steps) == before


def test_a_call_that_fails_is_no_step(installed_shim):
    model = adapted()
    base = model.get_base_model()
    with torch.no_grad():
        model(X[0], adapter_names=NAMES)
        before = (base.state, base.state.clone(), base.steps)
        for _ in range(2):
            with pytest.raises(KeyError, match="in the midst"):
                model(X[1], fails=True, adapter_names=NAMES)
            assert base.state is before[0]
            assert torch.equal(base.state, before[1])
            assert base.steps == before[2]


def test_what_a_part_of_the_batch_keeps_and_nobody_can_put_together_is_refused(installed_shim, always_split):
    model = adapted(more=lambda module, x: setattr(module, "loss", x.square().mean()))
    with pytest.raises(shim.RefusedError, match="loss"), torch.no_grad():
        model(X[0], adapter_names=NAMES)


def test_a_table_that_is_made_once_is_the_same_for_all(installed_shim, always_split):
    def table(module, x):
        if getattr(module, "table", None) is None:
            module.table = torch.arange(x.shape[1])

    model = adapted(more=table)
    check_steps(model, steps=1)
    assert model.get_base_model().table.tolist() == [0, 1, 2, 3]
    check_steps(model, steps=1)


class Place:
    """An object of the user's own."""


def attribute(model):
    return vars(model).get("_past"), lambda value: setattr(model, "_past", value)


def in_a_list(model):
    held = vars(model).setdefault("past", [])
    return (held[-1] if held else None), held.append


def in_a_dict_in_a_tuple(model):
    held = vars(model).setdefault("past", ({},))
    return held[0].get("past"), lambda value: held[0].update(past=value)


def in_a_deque(model):
    held = vars(model).setdefault("past", deque(maxlen=4))
    return (sum(held) if held else None), held.append


def in_an_object(model):
    held = vars(model).setdefault("past", Place())
    return vars(held).get("past"), lambda value: setattr(held, "past", value)


def in_a_cache(model):
    held = vars(model).setdefault("past", DynamicCache())
    past = getattr(held, "past", None)
    return past, lambda value: setattr(held, "past", value)


def written_over(model):
    held = vars(model).setdefault("past", torch.zeros(4, 4, dtype=torch.float64))
    return held, held.copy_


def in_a_view(model):
    held = vars(model).setdefault("past", torch.zeros(4, 8, dtype=torch.float64)[:, ::2])
    return held, lambda value: held.transpose(0, 1).copy_(value.transpose(0, 1))


def buffer(model):
    if "past" not in model._buffers:
        model.register_buffer("past", None)
    return model.past, lambda value: setattr(model, "past", value)


def buffer_written_over(model):
    if "past" not in model._buffers:
        model.register_buffer("past", torch.zeros(4, 4, dtype=torch.float64))
    return model.past, model.past.copy_


class Remembering(nn.Module):
    """Adds what it remembers, in one of the ways above, to its input."""

    def __init__(self, way):
        super().__init__()
        self.first, self.second, self.way = nn.Linear(4, 4), nn.Linear(4, 4), way
        way(self)

    def forward(self, x):
        past, remember = self.way(self)
        now = torch.tanh(self.first(x if past is None else x + past))
        remember(now)
        return self.second(now)


WAYS = [attribute, in_a_list, in_a_dict_in_a_tuple, in_a_deque, in_an_object, in_a_cache, written_over, in_a_view]
WAYS += [buffer, buffer_written_over]


def remembering(way):
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, target_modules=["first", "second"], init_lora_weights=False)
    model = peft.get_peft_model(Remembering(way), config, adapter_name="ann")
    model.add_adapter("ben", config)
    return model.double().eval()


@pytest.mark.parametrize("way", WAYS)
def test_each_step_is_one_step_wherever_the_last_is_remembered(way, installed_shim):
    whole = {name: remembering(way) for name in set(NAMES)}
    mixed = remembering(way)
    for step in X:  # the first is traced
        with torch.no_grad():
            own = {name: model(step, adapter_names=[name] * 4) for name, model in whole.items()}
            got = mixed(step, adapter_names=NAMES)
        for row, name in enumerate(NAMES):
            torch.testing.assert_close(got[row], own[name][row], rtol=1e-9, atol=1e-12)
            assert all((own[other][row] - own[name][row]).abs().max() > 1e-4 for other in own if other != name)


@pytest.mark.parametrize("way", WAYS)
def test_a_step_that_cannot_be_split_is_not_taken_wherever_the_last_is_remembered(way, installed_shim, always_split):
    model = remembering(way)
    base = model.get_base_model()
    for step in X[:2]:
        before = copy.deepcopy(way(base)[0])
        try:
            with torch.no_grad():
                model(step, adapter_names=NAMES)
        except (shim.RefusedError, RuntimeError):  # a part of the batch meets the state of the whole
            after = way(base)[0]
            assert after is before or torch.equal(after, before)
            return
        assert len(way(base)[0]) == len(NAMES)
    raise AssertionError("a part of the batch has met the state of the whole")


def test_what_is_kept_is_put_back_whatever_became_of_it():
    module = nn.Linear(2, 2).eval()
    module.written, module.replaced, module.number, module.gone = torch.zeros(2), torch.ones(2), 1, 2
    module._private, module.listed, module.act = None, [1, [torch.zeros(1)]], torch.relu
    module.register_buffer("buffer", torch.zeros(3))
    kept = Kept([("m", module)])
    assert kept.changed() == {}
    replaced, listed, innermost, held = module.replaced, module.listed, module.listed[1][0], module.buffer
    with kept.watched():
        module.written.add_(1)
        module.listed[1][0].add_(1)
        module.buffer[1:].add_(1)
    module.replaced, module.number, module.made, module._private = torch.zeros(1), 2, torch.zeros(1), 3
    module.listed.append(5)
    module.act = torch.sigmoid  # not state
    del module.gone
    changed = kept.changed()
    assert set(changed) == {
        *("m:written", "m:replaced", "m:number", "m:made", "m:gone", "m:_private", "m:listed", "m:buffer"),
    }
    kept.restore()
    assert changed["m:written"].tolist() == [1, 1]
    assert changed["m:listed"] == [1, [torch.ones(1)], 5]
    assert module.written.tolist() == [0, 0]
    assert module.replaced is replaced
    assert (module.number, module.gone, module._private) == (1, 2, None)
    assert not hasattr(module, "made")
    assert module.listed is listed
    assert (len(listed), listed[1][0] is innermost, innermost.item()) == (2, True, 0)
    assert module.buffer is held
    assert held.tolist() == [0, 0, 0]
    assert module.act is torch.sigmoid
    assert kept.changed() == {}


def test_statistics_of_training_are_not_kept():
    module = nn.BatchNorm1d(2)
    kept = Kept([("m", module)])
    module(torch.randn(3, 2))
    assert not kept.changed()


def test_what_was_written_over_unwatched_is_told():
    module = nn.Linear(2, 2)
    module.written = torch.zeros(2)
    kept = Kept([("m", module)])
    module.written.add_(1)
    assert set(kept.changed()) == {"m:written"}
    with pytest.raises(shim.RefusedError, match=r"shape \(2,\).*next one is right"):
        kept.restore()


def test_what_another_thread_sets_on_peft_is_not_taken_back(installed_shim):
    model = adapted()
    kept = kept_by_all(model, ["ann", "ben"])
    model.set_adapter("ben")
    model.add_adapter("cid", model.peft_config["ann"])
    kept.restore()
    assert model.active_adapter == "ben"
    assert set(model.get_base_model().first.scaling) == {"ann", "ben", "cid"}


def test_a_model_that_keeps_nothing_costs_nothing_more(installed_shim):
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, target_modules=["0"], init_lora_weights=False)
    model = peft.get_peft_model(nn.Sequential(nn.Linear(4, 4)), config, adapter_name="ann")
    model.add_adapter("ben", config)
    with torch.no_grad():
        model.double().eval()(X[0], adapter_names=NAMES)
    assert kept_by_keepers(model)._seen == []


@pytest.mark.parametrize("generates", [False, True])
def test_layers_are_hooked_for_their_states_once(installed_shim, generates):
    """transformers 5.2 hooks them at the first call that asks, for good; a trace is that first call."""
    (model, _), names = llama(), ["fr", "de"]
    inputs = {"input_ids": torch.tensor([[3, 4], [5, 6]]), "output_hidden_states": True}
    layers = model.config.num_hidden_layers
    for given in ({"adapter_names": names}, {"adapter_names": names}, {}):
        with torch.no_grad():
            if generates:
                settings = {"max_new_tokens": 2, "return_dict_in_generate": True, "do_sample": False}
                states = model.generate(**inputs, **settings, **given).hidden_states[0]
            else:
                states = model(**inputs, **given).hidden_states
        assert len(states) == layers + 1
