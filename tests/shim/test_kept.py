"""Models that keep something on themselves from one call to the next: a trace, or a part of a batch, is no call."""

import peft
import pytest
import torch
from torch import nn

import shim
from shim.errors import Unroutable
from shim.kept import Kept, kept_by_keepers
from shim.routing import plans, route

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


def test_what_is_kept_is_put_back_whatever_became_of_it():
    module = nn.Linear(2, 2)
    module.written, module.replaced, module.number = torch.zeros(2), torch.ones(2), 1
    module.listed = [1]
    kept = Kept([("m", module)])
    assert kept.changed() == {}
    replaced = module.replaced
    module.written.add_(1)
    module.replaced, module.number, module.made, module.listed = torch.zeros(1), 2, torch.zeros(1), None
    assert set(kept.changed()) == {"m:written", "m:replaced", "m:number", "m:made"}
    kept.restore()
    assert module.written.tolist() == [0, 0]
    assert module.replaced is replaced
    assert module.number == 1
    assert not hasattr(module, "made")


def test_a_model_that_keeps_nothing_costs_nothing_more(installed_shim):
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, target_modules=["0"], init_lora_weights=False)
    model = peft.get_peft_model(nn.Sequential(nn.Linear(4, 4)), config, adapter_name="ann")
    model.add_adapter("ben", config)
    with torch.no_grad():
        model.double().eval()(X[0], adapter_names=NAMES)
    assert kept_by_keepers(model)._before == []
