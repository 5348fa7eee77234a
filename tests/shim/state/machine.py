"""One PEFT model under the shim, led through any sequence of steps beside a plain model of it (contract S4).

After every step three things are asked: a call without names, a mixed call over all adapters, and the weights, each
against `reference.py`; a mixed call must leave nothing behind. Left out, since PEFT promises nothing there: changing
the weights of a merged adapter, which unmerging subtracts as they are then; several adapters at once where any of
them saves a module, which PEFT refuses or orders as it likes by version; leaving `disable_adapter()` where adapters
were disabled before, which enables them on peft 0.10 (Breakpoint: huggingface/peft#1663, peft 0.11.0).
"""

import contextlib
import copy
import os
import pickle
import random
import shutil
import tempfile
from collections import Counter
from dataclasses import replace
from typing import ClassVar

import numpy
import peft
import torch
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import shim
from conformance.footprint import expect_unchanged, footprint
from tests.shim.state.draws import ERRORS, NAMES, batches, config_of, pick, places, recipes
from tests.shim.state.reference import BASE, LAYERS, SAVED, Adapter, Reference, Toy, assert_same, draw

RATE = 1 / 256  # a step as large as the weights would double rounding errors each time, until they show
POWER = 1e-4  # adapters whose outputs differ by less prove nothing
X = draw((5, 4), torch.Generator().manual_seed(0))


class StateMachine(RuleBasedStateMachine):
    counts: ClassVar[Counter] = Counter()

    def __init__(self):
        super().__init__()
        self.folder = tempfile.mkdtemp()
        self.kept = []

    def teardown(self):
        shutil.rmtree(self.folder)
        shim.install()

    @initialize(first=st.lists(recipes, min_size=1, max_size=3), saves=st.booleans())
    def begin(self, first, saves):
        """Half of the runs save no modules: only there several adapters may be active at once."""
        self.may_save, recipe = saves, replace(first[0], saves=first[0].saves if saves else ())
        toy = Toy().double()
        generator = torch.Generator().manual_seed(7)
        for parameter in toy.parameters():
            parameter.data = draw(parameter.shape, generator)
        base = {tuple(key.split(".")): weight.clone() for key, weight in toy.state_dict().items()}
        self.reference = Reference(base)
        self.model = peft.get_peft_model(toy, config_of(recipe), adapter_name="ann").double().eval()
        self.reference.active = ["ann"]
        self._fill("ann", recipe)
        for other in first[1:]:
            self.add_adapter(0, other)

    # Adapters come and go.

    @precondition(lambda self: len(self.reference.adapters) < len(NAMES))
    @rule(place=places, recipe=recipes)
    def add_adapter(self, place, recipe):
        if recipe.saves and not (self.may_save and len(self.reference.active) == 1):
            recipe = replace(recipe, saves=())
        name = self._free(place)
        self.model.add_adapter(name, config_of(recipe))
        self._adopt_merges()
        self._fill(name, recipe)

    @rule(place=places)
    def save_pretrained(self, place):
        self._save(self._loaded(place))

    @precondition(lambda self: self.kept and len(self.reference.adapters) < len(NAMES))
    @rule(which=places, place=places)
    def load_adapter(self, which, place):
        self._load(pick(which, self.kept), self._free(place))

    @precondition(lambda self: len(self.reference.adapters) < len(NAMES))
    @rule(place=places, to=places)
    def rename(self, place, to):
        old, new = self._loaded(place), self._free(to)
        if any(old in held for held in self.reference.merged.values()):
            return
        if self._load(self._save(old), new):
            self._delete(old)

    @precondition(lambda self: len(self.reference.adapters) > 1)
    @rule(place=places)
    def delete_adapter(self, place):
        self._delete(self._loaded(place))

    @rule()
    def reload(self):
        """Save everything, and go on with a fresh model that loads it."""
        folders = {name: self._save(name)[0] for name in self.reference.adapters}
        before, (first, *others) = self.reference, folders
        toy = Toy().double()
        toy.load_state_dict({".".join(key): weight for key, weight in before.base.items()})
        self.model = peft.PeftModel.from_pretrained(toy, folders[first], adapter_name=first)
        self.reference = Reference(before.base, active=[first])
        self.reference.add(first, before.adapters[first])
        for name in others:
            self.model.load_adapter(folders[name], name)
            self.reference.add(name, before.adapters[name])
        self.model.eval()

    # Which of them run.

    @rule(place=places)
    def set_adapter(self, place):
        name = self._loaded(place)
        self.model.set_adapter(name)
        self.reference.active = [name]
        self.reference.unmerge()

    @precondition(lambda self: len(self.reference.adapters) > 1 and not self.reference.wrapped & set(SAVED))
    @rule(chosen=st.lists(places, min_size=2, max_size=3))
    def set_several_adapters(self, chosen):
        names = list(dict.fromkeys(self._loaded(place) for place in chosen))
        self.model.base_model.set_adapter(names)
        self.reference.active = names
        self.reference.unmerge()

    @rule(enabled=st.booleans())
    def enable_or_disable_adapter_layers(self, enabled):
        self.model.enable_adapter_layers() if enabled else self.model.disable_adapter_layers()
        self.reference.enabled = enabled

    @precondition(lambda self: self.reference.enabled or hasattr(self.model, "get_model_status"))
    @rule(batch=batches)
    def disable_adapter(self, batch):
        before = self.reference.enabled
        with self.model.disable_adapter():
            self.reference.enabled = False
            self.a_call_without_names_is_the_plain_models()
            self._mixed(self._names(batch))
        self.reference.enabled = before

    @rule(chosen=st.none() | st.lists(places, min_size=1, max_size=2))
    def merge_adapter(self, chosen):
        names = None if chosen is None else list(dict.fromkeys(self._loaded(place) for place in chosen))
        self.model.merge_adapter(adapter_names=names)
        self.reference.merge(self.reference.active if names is None else names)

    @rule()
    def unmerge_adapter(self):
        self.model.unmerge_adapter()
        self.reference.unmerge()

    @rule(training=st.booleans())
    def train_or_eval(self, training):
        self.model.train(training)

    # Their weights change.

    @rule(place=places, require=st.booleans())
    def require_gradients(self, place, require):
        name = self._loaded(place)
        for parameter in self._parameters(name).values():
            parameter.requires_grad_(require)

    @precondition(lambda self: not self.reference.is_merged)
    @rule(place=places, batch=batches)
    def step_of_an_optimizer(self, place, batch):
        trained, names = self._loaded(place), self._names(batch)
        mine = list(self._parameters(trained).values())
        flags = {id(parameter): parameter.requires_grad for parameter in self.model.parameters()}
        for parameter in self.model.parameters():
            parameter.requires_grad_(any(parameter is own for own in mine))
        optimizer = torch.optim.SGD(mine, lr=RATE)
        loss = self.model(X[: len(names)], adapter_names=names).square().mean()
        if loss.requires_grad:
            loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        for parameter in self.model.parameters():
            parameter.requires_grad_(flags[id(parameter)])
        self.reference.step(trained, X, names, RATE)

    @precondition(lambda self: not self.reference.is_merged)
    @rule(place=places, seed=st.integers(0, 99), by=st.sampled_from(["copy_", "data", "load_state_dict"]))
    def edit_weights(self, place, seed, by):
        name = self._loaded(place)
        generator = torch.Generator().manual_seed(seed)
        weights = self.reference.adapters[name].weights
        weights.update({key: draw(weight.shape, generator) for key, weight in weights.items()})
        new = {self.reference.parameter(name, key): weight.clone() for key, weight in weights.items()}
        if by == "load_state_dict":
            self.model.load_state_dict({**self.model.state_dict(), **new})
            return
        for key, parameter in self._parameters(name).items():
            if by == "data":
                parameter.data = new[self.reference.parameter(name, key)]
            else:
                parameter.data.copy_(new[self.reference.parameter(name, key)])

    @precondition(lambda self: not self.reference.is_merged)
    @rule(batch=batches)
    def single_precision_and_back(self, batch):
        names = self._names(batch)
        self.model.to(torch.float32)
        observed = self.model(X[: len(names)].float(), adapter_names=names).double()
        self.model.to(torch.float64)
        expected = self.reference.rows(X, names)
        assert (observed - expected).abs().max() <= 1e-2 * (1 + expected.abs().max()), "in single precision"
        self.reference.round_to_single()

    @rule(by=st.sampled_from(["deepcopy", "pickle"]), place=places, seed=st.integers(0, 99))
    def copy(self, by, place, seed):
        """Go on with a copy, whose weights are its own."""
        before, weights = self.model, copy.deepcopy(self.model.state_dict())
        self.model = copy.deepcopy(before) if by == "deepcopy" else pickle.loads(pickle.dumps(before))
        if not self.reference.is_merged:
            self.edit_weights(place, seed, "copy_")
        for key, weight in before.state_dict().items():
            assert torch.equal(weight, weights[key]), f"{key} of the original changed with its copy"

    # Calls.

    @rule(batch=batches)
    def mixed_call(self, batch):
        self._mixed(self._names(batch))

    @rule(batch=batches, wrong=st.sampled_from(["nobody", "count"]))
    def refused_call(self, batch, wrong):
        names = self._names(batch)
        error, given = (shim.UnknownAdapterError, [*names[1:], "eve"])
        if wrong == "count":
            error, given = (shim.AdapterNamesError, [*names, BASE])
        with self._nothing_left():
            raised = raised_by(lambda: self.model(X[: len(names)], adapter_names=given))
        allowed = (error, shim.RefusedError) if self.reference.is_merged else error
        assert isinstance(raised, allowed), f"{given} gave {raised!r}, but should be refused"

    @rule(batch=batches, place=st.integers(0, 40), at=st.integers(1, 3), error=st.sampled_from(ERRORS))
    def failing_call(self, batch, place, at, error):
        """Let any module raise at its `at`-th call: either the caller sees it, or the rows are right."""
        names, calls = self._names(batch), []
        module = pick(place, [module for module in self.model.modules() if not list(module.children())])

        def fail(*_):
            calls.append(1)
            if len(calls) == at:
                raise error("planted")

        handle = module.register_forward_pre_hook(fail)
        try:
            with self._nothing_left():
                raised = raised_by(lambda: self._expect_rows(names))
        finally:
            handle.remove()
        if raised is not None and not (isinstance(raised, error) and "planted" in str(raised)):
            raise raised

    @rule(batch=batches)
    def explain(self, batch):
        names = self._names(batch)
        with self._nothing_left():
            raised = raised_by(lambda: shim.explain(self.model, {"x": X[: len(names)]}, names))
        assert isinstance(raised, shim.RefusedError) or (raised is None and not self.reference.is_merged), raised

    @rule(rows=st.integers(1, 5))
    def plan(self, rows):
        with self._nothing_left():
            raised = raised_by(lambda: shim.plan(self.model, {"x": X[:rows]}))
        assert raised is None or (isinstance(raised, shim.RefusedError) and self.reference.is_merged), raised

    @rule()
    def without_the_shim(self):
        shim.uninstall()
        self.a_call_without_names_is_the_plain_models()
        shim.install()

    # After every step.

    @invariant()
    def a_call_without_names_is_the_plain_models(self):
        assert_same(self.model(X), self.reference.plain(X), "a call without names")

    @invariant()
    def every_row_of_a_mixed_call_is_its_adapters(self):
        self._mixed((list(self.reference.adapters) + [BASE] * 5)[: len(X)])

    @invariant()
    def the_weights_are_the_plain_models(self):
        self.counts["steps"] += 1
        observed, expected = self.model.state_dict(), self.reference.state_dict()
        differing = sorted(observed.keys() ^ expected.keys())
        assert not differing, f"only one of the model and the plain model has {differing}"
        for key, weight in expected.items():
            assert_same(observed[key], weight, key)

    def _mixed(self, names):
        with self._nothing_left():
            self._expect_rows(names)

    def _expect_rows(self, names):
        x = X[: len(names)]
        if self.reference.is_merged:
            raised = raised_by(lambda: self.model(x, adapter_names=names))
            assert isinstance(raised, shim.RefusedError), f"{raised!r}, but merged adapters should be refused"
            return
        expected = self.reference.rows(x, names)
        assert_same(self.model(x, adapter_names=names), expected, f"a mixed call of {names}")
        if len(set(names)) > 1:
            same = self.reference.rows(x, [names[0]] * len(names))
            apart = (expected - same).abs().max().item() > POWER
            self.counts["with power" if apart else "without power"] += 1

    @contextlib.contextmanager
    def _nothing_left(self):
        before = self._state()
        yield
        expect_unchanged(before, self._state(), "a call")

    def _state(self):
        generators = {"python": random.getstate()[1], "numpy": numpy.random.get_state()[1].tolist()}
        return {**footprint(self.model), **generators}

    # What the steps are made of.

    def _loaded(self, place):
        return pick(place, self.reference.adapters)

    def _free(self, place):
        return pick(place, [name for name in NAMES if name not in self.reference.adapters])

    def _names(self, batch):
        return [pick(place, [*self.reference.adapters, BASE]) for place in batch]

    def _parameters(self, name):
        named = dict(self.model.named_parameters())
        keys = self.reference.adapters[name].weights
        return {key: named[self.reference.parameter(name, key)] for key in keys}

    def _fill(self, name, recipe):
        self.reference.add(name, Adapter.of(recipe, self.reference.base))
        for key, parameter in self._parameters(name).items():
            parameter.data.copy_(self.reference.adapters[name].weights[key])

    def _save(self, name):
        folder = os.path.join(self.folder, str(len(self.kept)))
        self.model.save_pretrained(folder, selected_adapters=[name])
        self.kept.append((os.path.join(folder, name), self.reference.adapters[name].copy()))
        return self.kept[-1]

    def _load(self, kept, name):
        folder, adapter = kept
        if adapter.saves and len(self.reference.active) > 1:
            return False
        self.model.load_adapter(folder, name)
        self._adopt_merges()
        self.reference.add(name, adapter.copy())
        return True

    def _delete(self, name):
        if any(name in held for held in self.reference.merged.values()):
            raised = raised_by(lambda: self.model.delete_adapter(name))
            assert isinstance(raised, ValueError), f"{raised!r}, but a merged adapter should not be deleted"
            return
        self.model.delete_adapter(name)
        self._adopt_merges()
        del self.reference.adapters[name]
        left = [other for other in self.reference.active if other != name]
        active = list(self.model.base_model.active_adapters)
        if left:
            assert active == left, f"{active} are active after deleting {name}, but should be {left}"
        else:
            assert len(active) == 1, active
            assert active[0] in self.reference.adapters, active
        self.reference.active = active

    def _adopt_merges(self):
        """Loading and deleting may unmerge, by version: all layers, or none."""
        observed = {layer: list(getattr(self._module(layer), "merged_adapters", ())) for layer in LAYERS}
        assert observed == self.reference.merged or not any(observed.values()), observed
        self.reference.merged = observed

    def _module(self, name):
        return getattr(self.model.base_model.model, name)


def raised_by(function):
    """Return what `function` raises; a failed assertion is raised on."""
    try:
        function()
    except AssertionError:
        raise
    except BaseException as error:
        return error
    return None
