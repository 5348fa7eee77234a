"""Every method of the installed PEFT is exact in a mixed batch, or refused by name; none ignores the names."""

import inspect
import warnings

import peft
import pytest
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch import nn

import shim
from shim.batch import CHOSEN_AT_THE_MODEL, CHOSEN_IN_LAYERS

WIDTH = 128
NAMES = ["ann", "ben", "__base__", "ann"]
DRAWS_NOISE = {"PVERA"}  # in training mode, so that two runs differ
# Products of their own stay in single precision, in some versions of PEFT.
SINGLE = {"ADAMSS", "BOFT", "FROD", "HRA"}
NEEDS_TORCH_2 = {"SHIRA", "SUPERTUNING"}
NEEDS_PACKAGE = {"ADAMSS": "sklearn", "BOFT": "setuptools"}
# What a configuration needs beyond its defaults to fit the small model below.
NEEDS = {
    "BOFT": {"boft_block_size": 4},
    "C3A": {"block_size": 16},
    "FOURIERFT": {"n_frequency": 10},
    "IA3": {"feedforward_modules": []},
    "MISS": {"r": 8},
    "PSOFT": {"r": 8},
    "SHIRA": {"r": 4},
    "VBLORA": {"num_vectors": 8, "vector_length": 4, "topk": 2},
    "WAVEFT": {"n_frequency": 64},
    "LN_TUNING": {"target_modules": ["norm"]},
    "TRAINABLE_TOKENS": {"target_modules": ["embedding"], "token_indices": [0, 1, 2, 3]},
}
METHODS = {str(getattr(key, "value", key)): config for key, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
IN_LAYERS = sorted(set(METHODS) & CHOSEN_IN_LAYERS - {"LILY"})


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(4, WIDTH)
        self.first = nn.Linear(WIDTH, WIDTH)
        self.second = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.config = {"model_type": "custom"}

    def forward(self, x, tokens):
        return self.norm(self.second(torch.tanh(self.first(x + self.embedding(tokens)))))


def configuration(method):
    config = METHODS[method]
    settings = {"target_modules": ["first", "second"], **NEEDS.get(method, {})}
    known = inspect.signature(config).parameters
    if "oft_block_size" in known:
        settings["oft_block_size"] = 4
        settings.setdefault("r", 0)
    if method == "ADALORA":
        settings["inference_mode"] = True
        settings.update({"total_step": 10} if "total_step" in known else {})
    return config(**settings)


def build(method):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = peft.get_peft_model(Net(), configuration(method), adapter_name="ann")
            model.add_adapter("ben", configuration(method))
        except (ValueError, TypeError, NotImplementedError) as error:
            pytest.skip(f"this PEFT cannot build two adapters of {method} here: {error}")
    for path, parameter in model.named_parameters():
        if {"ann", "ben"} & set(path.split(".")):
            parameter.data = parameter.data + 0.3 * torch.randn_like(parameter)
    return model.eval()


def inputs(dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return {"x": torch.randn(4, WIDTH, generator=generator).to(dtype), "tokens": torch.tensor([0, 1, 2, 3])}


def alone(model, name):
    if name == "__base__":
        with model.disable_adapter():
            return model(**inputs())
    model.set_adapter(name)
    return model(**inputs())


@pytest.mark.parametrize("method", IN_LAYERS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_method_that_chooses_in_its_layers_is_exact(method, installed_shim):
    if method in NEEDS_PACKAGE:
        pytest.importorskip(NEEDS_PACKAGE[method])
    if method in NEEDS_TORCH_2 and not hasattr(nn.Module(), "_backward_pre_hooks"):
        pytest.skip("PEFT's own forward of this method needs torch 2")
    model = build(method)
    with torch.no_grad():
        own = {name: alone(model, name) for name in ("ann", "ben", "__base__")}
        mixed = model(**inputs(), adapter_names=NAMES)
    for row, name in enumerate(NAMES):
        torch.testing.assert_close(mixed[row], own[name][row], rtol=1e-4, atol=1e-5)
        for other in set(own) - {name}:
            assert (own[other][row] - own[name][row]).abs().max() > 1e-2


def gradients_of_rows(model, names, mixed):
    """The gradient of every weight of `ann` and `ben`: of one mixed batch, or of each row alone under `set_adapter`."""
    for path, parameter in model.named_parameters():
        parameter.grad = None
        parameter.requires_grad_(parameter.is_floating_point() and bool({"ann", "ben"} & set(path.split("."))))
    weights = torch.arange(4 * WIDTH).cos().view(4, WIDTH)
    given = inputs(next(model.parameters()).dtype)
    if mixed:
        (model(**given, adapter_names=names) * weights).sum().backward()
    for row, name in enumerate(names):
        if not mixed and name != "__base__":
            model.set_adapter(name)
            for path, parameter in model.named_parameters():
                parameter.requires_grad_(name in path.split("."))
            some = {key: value[row : row + 1] for key, value in given.items()}
            (model(**some) * weights[row]).sum().backward()
    return {path: parameter.grad for path, parameter in model.named_parameters()}


@pytest.mark.parametrize("method", sorted({*IN_LAYERS} - {"ADALORA", *DRAWS_NOISE}))
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_method_that_chooses_in_its_layers_trains_each_adapter_on_its_own_rows(method, installed_shim):
    if method in NEEDS_PACKAGE:
        pytest.importorskip(NEEDS_PACKAGE[method])
    if method in NEEDS_TORCH_2 and not hasattr(nn.Module(), "_backward_pre_hooks"):
        pytest.skip("PEFT's own forward of this method needs torch 2")
    model = build(method).train()
    if method not in SINGLE:
        model = model.double()  # in which what cancels out is nothing beside the bound
    want = gradients_of_rows(model, NAMES, mixed=False)
    trained = {name for name in ("ann", "ben") for path, grad in want.items() if grad is not None and name in path}
    assert trained == {"ann", "ben"}, "PEFT itself does not train both"
    found = gradients_of_rows(model, NAMES, mixed=True)
    for path, grad in want.items():
        assert (found[path] is None) is (grad is None), path
        if grad is not None:
            size = grad.abs().max().item()
            torch.testing.assert_close(found[path], grad, rtol=1e-3, atol=1e-4 * size + 1e-6)


def test_adalora_adds_one_adapters_regulariser_to_every_loss_and_is_not_trained_mixed(installed_shim):
    model = build("ADALORA").train()
    with pytest.raises(shim.RefusedError, match=r"'ann' is of the method ADALORA.*calls of its own"):
        model(**inputs(), adapter_names=NAMES)


@pytest.mark.skipif("LILY" not in METHODS, reason="this PEFT has no LILY")
def test_a_method_that_mixes_samples_is_refused(installed_shim):
    model = build("LILY")
    with pytest.raises(shim.RefusedError, match="changes for a sample when other samples are left out"):
        model(**inputs(), adapter_names=NAMES)


@pytest.mark.parametrize("method", sorted(set(METHODS) - CHOSEN_IN_LAYERS - CHOSEN_AT_THE_MODEL))
def test_a_method_that_is_not_shown_to_choose_in_its_layers_is_refused(method, installed_shim):
    model = build("LORA")
    model.peft_config["ben"] = METHODS[method].__new__(METHODS[method])
    vars(model.peft_config["ben"])["peft_type"] = method
    with pytest.raises(shim.RefusedError, match=f"adapter 'ben'.*{method}"):
        model(**inputs(), adapter_names=NAMES)


def test_different_methods_share_a_batch(installed_shim):
    torch.manual_seed(0)
    model = peft.PeftMixedModel(Net(), configuration("LORA"), adapter_name="ann")
    model.add_adapter("ben", configuration("LOHA"))
    for path, parameter in model.named_parameters():
        if {"ann", "ben"} & set(path.split(".")):
            parameter.data = parameter.data + 0.3 * torch.randn_like(parameter)
    model.eval()
    with torch.no_grad():
        own = {}
        for name in ("ann", "ben"):
            model.set_adapter(name)
            own[name] = model(**inputs())
        with model.disable_adapter():
            own["__base__"] = model(**inputs())
        mixed = model(**inputs(), adapter_names=NAMES)
    for row, name in enumerate(NAMES):
        torch.testing.assert_close(mixed[row], own[name][row], rtol=1e-4, atol=1e-5)
