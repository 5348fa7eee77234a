"""PEFT's multi-head attention run on copies: a call writes nothing on the layer, whatever becomes of it."""

import sys
import threading
import warnings
from contextlib import suppress

import peft
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import shim
from shim.kept import kept_by_all
from tests.shim.attention import (
    HEADS,
    NAMES,
    WIDTH,
    alone,
    attending,
    check_rows,
    needs_attention,
    rows_alone,
    samples,
    tensors,
)

pytestmark = [needs_attention, pytest.mark.usefixtures("installed_shim")]


def itself(module, x):
    hidden = module.before(x)
    return module.attention(hidden, hidden, hidden, need_weights=False)[0]


def attention_of(model):
    return model.base_model.model.attention


def weights_of(layer):
    """Return every weight of the layer by place, without `named_parameters`, which puts new objects in their place."""
    found, stack = {}, [("", layer)]
    while stack:
        path, module = stack.pop()
        found.update({(path, name): value for name, value in vars(module)["_parameters"].items() if value is not None})
        stack += [(f"{path}.{name}", child) for name, child in vars(module)["_modules"].items()]
    return found


class Unchanged:
    """Checks on leaving that a layer holds the very parameters that it held, in the same memory, bit for bit."""

    def __init__(self, layer):
        self.layer = layer

    def __enter__(self):
        self.held = weights_of(self.layer)
        self.before = {place: (value.data_ptr(), value.detach().clone()) for place, value in self.held.items()}
        self.state = self.attributes()

    def __exit__(self, *error):
        after = weights_of(self.layer)
        assert after.keys() == self.held.keys()
        for place, value in after.items():
            address, bits = self.before[place]
            assert value is self.held[place], place
            assert value.data_ptr() == address, place
            assert torch.equal(value, bits), place
        assert self.attributes() == self.state

    def attributes(self):
        base = self.layer.base_layer
        return [
            (sorted(vars(part)), sorted(vars(part)["_modules"]), list(getattr(part, "merged_adapters", ())))
            for part in (self.layer, base, base.out_proj, base.out_proj.base_layer)
        ]


def test_what_changes_a_weight_is_seen():
    layer = attention_of(attending(itself))
    for change in (lambda: list(layer.named_modules()), lambda: layer.base_layer.out_proj.bias.data.add_(1e-9)):
        with pytest.raises(AssertionError), Unchanged(layer):
            change()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_a_call_writes_nothing_on_the_layer(dtype, mode):
    model = attending(itself, batch_first=True).to(dtype)
    getattr(model, mode)()
    for name, weight in model.named_parameters():
        weight.requires_grad = "lora_" in name
    with Unchanged(attention_of(model)):
        model(samples(4).to(dtype), adapter_names=NAMES)  # traced
        model(samples(4).to(dtype), adapter_names=NAMES[::-1])
        model(samples(2).to(dtype), adapter_names=["ben", "ben"])


def test_a_bias_that_peft_adds_to_in_place_stays():
    model = attending(itself, targets=("before",), batch_first=True)
    config = peft.LoraConfig(r=2, target_modules=["attention"], init_lora_weights=False, lora_bias=True)
    model.add_adapter("cat", config)
    model.double()
    names = ["cat", "ann", "__base__", "cat"]
    with torch.no_grad():
        rows = rows_alone(model, names, {"x": samples(4)})
        with Unchanged(attention_of(model)):
            check_rows(model(samples(4), adapter_names=names), rows)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_a_failure_inside_leaves_no_trace(error, at):
    model = attending(itself, batch_first=True)
    calls = []

    def fail(*_):
        calls.append(1)
        if len(calls) >= at:
            raise error("planted")

    layer = attention_of(model)
    with torch.no_grad():
        rows = rows_alone(model, NAMES, {"x": samples(4)})
        hook = layer.base_layer.register_forward_hook(fail)
        with Unchanged(layer), pytest.raises(error, match="planted"):  # in the trace, or under an adapter
            model(samples(4), adapter_names=NAMES)
        hook.remove()
        check_rows(model(samples(4), adapter_names=NAMES), rows)


@pytest.mark.parametrize("batch_first", [True, False])
def test_threads_with_names_and_without_do_not_meet(batch_first):
    model = attending(itself if batch_first else time_major, batch_first=batch_first)
    x, lists = samples(4), [NAMES, NAMES[::-1], ["ben"] * 4, ["__base__", "ben", "ann", "ann"], None, None, "look"]
    with torch.no_grad():
        own = {name: alone(model, name, {"x": x}) for name in ("ann", "ben", "__base__")}
    model.set_adapter("ann")
    faults, start = [], threading.Barrier(len(lists))

    def run(names):
        try:
            start.wait()
            for _ in range(10):
                if names == "look":  # what is found in the midst of a call without names is PEFT's own race
                    with suppress(RuntimeError):
                        list(model.parameters())
                    continue
                with torch.no_grad():
                    y = model(x) if names is None else model(x, adapter_names=names)
                for row, name in enumerate(names or ["ann"] * 4):
                    torch.testing.assert_close(y[row], own[name][row], rtol=1e-9, atol=1e-9)
        except BaseException as fault:
            faults.append(fault)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    threads = [threading.Thread(target=run, args=(names,)) for names in lists]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(interval)
    assert not faults, faults[0]
    assert min((own["ann"] - own[name]).abs().amax((1, 2)).min() for name in ("ben", "__base__")) > 1e-3


def time_major(module, x):
    hidden = module.before(x).transpose(0, 1)
    return module.attention(hidden, hidden, hidden)[0].transpose(0, 1)


def test_weights_that_a_call_without_names_has_merged_for_a_moment_are_nothing_kept():
    model = attending(itself, batch_first=True)
    base, kept = attention_of(model).base_layer, kept_by_all(model, ["ann"])
    seen = []

    def look(*_):
        kept.restore()  # as another thread's trace does at its end
        seen.append(("in_proj_weight" in vars(base), kept.changed()))

    base.register_forward_hook(look)
    with torch.no_grad():
        model(samples(2))
    assert seen == [(True, {})]


def test_a_call_without_names_is_pefts_own():
    model = attending(itself, batch_first=True)
    seen = []
    hook = attention_of(model).base_layer.register_forward_hook(lambda module, *_: seen.append(module))
    with torch.no_grad():
        model(samples(2))
        model(samples(2), adapter_names=["ann", "ann"])
    hook.remove()
    assert [module is attention_of(model).base_layer for module in seen] == [True, False]


def test_a_merged_attention_is_refused():
    model = attending(itself, batch_first=True)
    model.merge_adapter()
    with pytest.raises(shim.RefusedError, match="merged adapters"):
        model(samples(2), adapter_names=["ann", "ben"])
    model.unmerge_adapter()
    with torch.no_grad():
        rows = rows_alone(model, ["ann", "ben"], {"x": samples(2)})
        check_rows(model(samples(2), adapter_names=["ann", "ben"]), rows)


def test_a_part_whose_forward_was_replaced_is_refused():
    model = attending(itself)
    base = attention_of(model).base_layer
    base.forward = base.forward
    with pytest.raises(shim.RefusedError, match=r"MultiheadAttention in .*attention was replaced"):
        model(samples(2), adapter_names=["ann", "ben"])
    assert model(samples(2), adapter_names=["__base__"] * 2).shape == samples(2).shape


@pytest.mark.parametrize("reentrant", [True, False])
def test_what_a_checkpoint_runs_again_is_each_rows_own(reentrant):
    def kept(module, x):
        hidden = module.before(x)
        return checkpoint(lambda h: module.attention(h, h, h)[0], hidden, use_reentrant=reentrant)

    found = []
    for body in (itself, kept):
        model = attending(body, batch_first=True).train()
        weights = {name: weight for name, weight in model.named_parameters() if "lora_" in name}
        for weight in weights.values():
            weight.requires_grad = True
        model(samples(4), adapter_names=NAMES).square().sum().backward()
        found.append({name: weight.grad for name, weight in weights.items()})
    assert len(found[0]) == 12
    for name, gradient in found[0].items():
        assert gradient.abs().max() > 1e-3
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-9, atol=1e-12)


class Encoder(nn.Module):
    def __init__(self, batch_first=True, **options):
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(WIDTH, HEADS, 16, batch_first=batch_first, **options)

    def forward(self, x):
        return (
            self.encoder(x) if self.encoder.self_attn.batch_first else self.encoder(x.transpose(0, 1)).transpose(0, 1)
        )


def encoding(targets=("self_attn",), **options):
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, target_modules=list(targets), init_lora_weights=False)
    model = peft.get_peft_model(Encoder(**options), config, adapter_name="ann")
    model.add_adapter("ben", config)
    model.add_adapter("cat", peft.LoraConfig(r=2, target_modules=["linear1"], init_lora_weights=False))
    return model.double().eval()


@pytest.fixture
def slow_path():
    if not hasattr(torch.backends, "mha"):
        pytest.skip("torch below 2.1 has no switch")
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


def test_an_encoder_that_goes_past_its_adapters_is_refused():
    model = encoding()
    with torch.no_grad():
        ignored = alone(model, "ann", {"x": samples(2)}) - alone(model, "__base__", {"x": samples(2)})
        assert not ignored.any()  # what upstream does
        for names in (["ann", "ben"], ["ann", "ann"]):
            with pytest.raises(shim.RefusedError, match=r"self_attn lies in a .*EncoderLayer"):
                model(samples(2), adapter_names=names)
        assert model(samples(2), adapter_names=["__base__"] * 2).shape == samples(2).shape


def test_an_encoder_without_its_fast_path_is_exact(slow_path):
    model = encoding()
    with torch.no_grad():
        rows = rows_alone(model, NAMES, {"x": samples(4)})
        check_rows(model(samples(4), adapter_names=NAMES), rows)


@pytest.mark.parametrize("options", [{"batch_first": False}, {"activation": nn.SiLU()}])
def test_an_encoder_that_has_no_fast_path_is_exact(options):
    model = encoding(**options)
    with torch.no_grad():
        rows = rows_alone(model, NAMES, {"x": samples(4)})
        check_rows(model(samples(4), adapter_names=NAMES), rows)


@pytest.mark.skipif(not hasattr(torch, "compiler"), reason="torch below 2.1 compiles nothing that mixed calls use")
def test_a_compiled_model_runs_it_as_it_is_written():
    if not shim.graphs.can_serve():
        pytest.skip("before torch 2.6 a mixed call runs uncompiled anyway")
    model = attending(itself, batch_first=True)
    with torch.no_grad():
        rows = rows_alone(model, NAMES, {"x": samples(4)})
        compiled = torch.compile(model, backend="eager")
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            check_rows(compiled(x=samples(4), adapter_names=NAMES), rows)
    assert any("runs uncompiled" in str(one.message) for one in told)
    assert len(tensors(rows[0][0])) == 1
