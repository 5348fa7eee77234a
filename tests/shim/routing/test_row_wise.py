"""Layers with forwards of their own, and saved modules that change what they are given: exact, or not in one pass."""

import peft
import pytest
import torch
from packaging.version import Version
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import LlamaConfig, LlamaForCausalLM

import shim
from tests.shim.routing.rows_alone import NAMES

X = torch.randn(4, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


@pytest.fixture(autouse=True)
def _shim():
    shim.install(fallback="split")
    yield
    shim.uninstall()


class Net(nn.Module):
    """A layer of class `kind`, called by `call`, on what another layer made; `saved` stands behind them."""

    def __init__(self, kind=nn.Linear, call=lambda layer, x: layer(x), saved=nn.Identity):
        super().__init__()
        self.up, self.layer, self.saved = nn.Linear(4, 4), kind(4, 4), saved()
        self.call = call

    def forward(self, x):
        made = self.call(self.layer, self.up(x))
        return self.saved(made) + made


def adapted(module, targets=("up", "layer"), saved=None, method=peft.LoraConfig):
    torch.manual_seed(0)
    options = {"r": 2, "init_lora_weights": False} if method is peft.LoraConfig else {"feedforward_modules": []}
    config = method(target_modules=list(targets), modules_to_save=saved, **options)
    model = peft.get_peft_model(module, config, adapter_name="ann")
    model.add_adapter("ben", config)
    for name, parameter in model.named_parameters():
        if ".ann" in name or ".ben" in name:
            parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
        if ".ben" in name:
            parameter.data = -2 * parameter.data
    return model.double().eval()


def check(model, x=X, names=NAMES, route="one pass"):
    """Check the route, and each row against its sample run by itself under its adapter."""
    assert shim.explain(model, {"x": x}, names).route == route
    check_rows(model, x, names)


def check_rows(model, x=X, names=NAMES):
    with torch.no_grad():
        mixed = model(x, adapter_names=names)
        for row, name in enumerate(names):
            own = {n: model(x[row : row + 1], adapter_names=[n])[0] for n in {"ann", "ben", "__base__"}}
            torch.testing.assert_close(mixed[row], own.pop(name), rtol=1e-9, atol=1e-12)
            assert all((mixed[row] - other).abs().max() > 1e-4 for other in own.values())


class Rolled(nn.Linear):
    def forward(self, x):
        return super().forward(x.roll(1, 0))


class ScaledByTheBatch(nn.Linear):
    """As quantisation of activations by one scale for all is written, with weights that are plain."""

    def forward(self, x):
        scale = x.detach().abs().max() / 7
        return super().forward((x / scale).round() * scale)


class BranchesOnTheBatch(nn.Linear):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else -super().forward(x)


class OverItsInput(nn.Linear):
    def forward(self, x):
        return super().forward(x.mul_(2))


class Counting(nn.Linear):
    def __init__(self, *args):
        super().__init__(*args)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return super().forward(x) * self.calls


class ScaledByRow(nn.Linear):
    def forward(self, x):
        scale = x.detach().abs().amax(-1, keepdim=True) / 7
        return super().forward((x / scale).round() * scale)


class AlongTime(nn.Linear):
    def forward(self, x):
        return super().forward(x).cumsum(-2)


@pytest.mark.parametrize("kind", [Rolled, ScaledByTheBatch])
@pytest.mark.parametrize("targets", [["layer"], ["up", "layer"]])
@pytest.mark.parametrize("method", [peft.LoraConfig, peft.IA3Config])
def test_a_layer_that_mixes_its_rows_is_refused(kind, targets, method):
    model = adapted(Net(kind), targets, method=method)
    with pytest.raises(shim.RefusedError, match=f"layer is a {kind.__name__} with a forward, or hooks, of its own"):
        model(X, adapter_names=NAMES)


@pytest.mark.parametrize("kind", [BranchesOnTheBatch, OverItsInput, Counting])
def test_a_layer_that_does_more_than_make_rows_does_not_go_in_one_pass(kind):
    shim.install(fallback="refuse")
    model = adapted(Net(kind))
    with pytest.raises(shim.RefusedError, match=r"base_model\.model\.layer "), torch.no_grad():
        model(X, adapter_names=NAMES)


@pytest.mark.parametrize("method", [peft.LoraConfig, peft.IA3Config])
def test_a_layer_of_its_own_class_that_keeps_rows_apart_goes_in_one_pass(method):
    check(adapted(Net(ScaledByRow), method=method))


def test_a_layer_that_mixes_tokens_of_a_sample_is_split():
    check(adapted(Net(AlongTime)), route="split")


def test_a_hook_that_mixes_rows_is_seen():
    model = adapted(Net())
    model.base_model.model.layer.base_layer.register_forward_pre_hook(lambda _, args: (args[0].flip(0),))
    with pytest.raises(shim.RefusedError, match="layer is a Linear with a forward, or hooks, of its own"):
        model(X, adapter_names=NAMES)


def test_torchs_own_layers_are_not_run_once_more():
    class Products(TorchFunctionMode):
        calls = 0

        def __torch_function__(self, func, types, args=(), kwargs=None):
            self.calls += func is nn.functional.linear and args[1] is weight
            return func(*args, **kwargs or {})

    model = adapted(Net())
    weight = model.base_model.model.layer.base_layer.weight
    with torch.no_grad(), Products() as products:
        model(X, adapter_names=NAMES)
    assert products.calls == 2  # the trace, and the call


class WithFactors(nn.Linear):
    def forward(self, x, factors):
        return torch.stack([row * factor for row, factor in zip(super().forward(x), factors)])


@pytest.mark.parametrize("given", [list, tuple, torch.tensor], ids=["list", "tuple", "tensor"])
@pytest.mark.parametrize("named", [False, True])
def test_what_a_layer_is_given_beside_its_input_is_not_taken_for_the_rows_own(given, named):
    def call(layer, x):
        factors = given([1.0, 2.0, 3.0, 4.0][: len(x)])
        return layer(x, factors=factors) if named else layer(x, factors)

    model = adapted(Net(WithFactors, call))
    with pytest.raises(shim.RefusedError, match=r"layer is called with a (list|tuple|tensor)"), torch.no_grad():
        model(X, adapter_names=NAMES)


class Padded(nn.Linear):
    """As streaming convolutions are: what was before comes out of a cache, which each call fills."""

    def forward(self, x, cache):
        cache.append(x)
        return super().forward(x) + sum(before.mean() for before in cache)


class Cache:
    def __init__(self):
        self.held = []

    def append(self, value):
        self.held.append(value)

    def __iter__(self):
        return iter(self.held)


class ModuleCache(Cache, nn.Module):
    """As transformers' are from 4.45 to 4.47: a forward could call it."""

    def __init__(self):
        nn.Module.__init__(self)
        Cache.__init__(self)


@pytest.mark.parametrize("cache", [Cache, ModuleCache])
def test_a_layer_that_fills_a_cache_does_not_go_in_one_pass(cache):
    shim.install(fallback="refuse")
    model = adapted(Net(Padded, lambda layer, x: layer(x, cache())))
    with pytest.raises(shim.RefusedError, match=f"layer is called with a {cache.__name__}"), torch.no_grad():
        model(X, adapter_names=NAMES)


# ---- saved modules, which run on all rows under each adapter in turn


class Doubling(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(4, 4)

    def forward(self, x):
        return self.dense(x.mul_(2))


class Passing(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(4, 4)

    def forward(self, x):
        return self.dense(x.clone().mul_(2))


def test_a_saved_module_that_writes_over_its_input_is_split():
    check(adapted(Net(saved=Doubling), ["up"], ["saved"]), route="split")


def test_a_saved_module_that_writes_over_its_own_memory_goes_in_one_pass():
    check(adapted(Net(saved=Passing), ["up"], ["saved"]))


class Scaling(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(4, 4)

    def forward(self, x):
        return self.dense(x), float(self.dense.bias[0])


class Scaled(Net):
    def forward(self, x):
        made, scale = self.saved(self.layer(self.up(x)))
        return made * scale


def test_a_number_of_a_saved_module_is_not_taken_for_all_rows():
    check_rows(adapted(Scaled(saved=Scaling), ["up"], ["saved"]))  # which no trace of the base model shows


@pytest.mark.skipif(
    Version("0.13") <= Version(peft.__version__) < Version("0.20"),
    reason="this peft calls no saved module by keywords, as Llama calls its attention",
)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_saved_attention_fills_its_cache_once(attention):
    torch.manual_seed(0)
    sizes = {"vocab_size": 24, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2}
    ids = torch.arange(24).view(4, 6)
    try:
        config = LlamaConfig(**sizes, num_attention_heads=2, attn_implementation=attention)
        base = LlamaForCausalLM(config)
    except ImportError as error:
        pytest.skip(str(error))  # torch below 2.1 has no such attention
    model = adapted(base, ["lm_head"], ["self_attn"]).float()
    settings = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    with torch.no_grad():
        mixed = model(input_ids=ids, adapter_names=NAMES, use_cache=True)
        assert tokens_held(mixed.past_key_values) == 6
        tokens = model.generate(input_ids=ids, adapter_names=NAMES, **settings)
        for row, name in enumerate(NAMES):
            own = model(input_ids=ids[row : row + 1], adapter_names=[name], use_cache=True).logits[0]
            torch.testing.assert_close(mixed.logits[row], own, rtol=1e-4, atol=1e-4)
            own = model.generate(input_ids=ids[row : row + 1], adapter_names=[name], **settings)
            assert torch.equal(tokens[row], own[0])


def tokens_held(cache):
    return cache.get_seq_length() if hasattr(cache, "get_seq_length") else cache[0][0].shape[-2]
