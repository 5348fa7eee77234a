"""accelerate's hooks: they replace `forward`, and keep weights on `meta`, in memory or on disk between calls (E3)."""

import copy

import accelerate
import pytest
import torch
from accelerate.utils import set_module_tensor_to_device

import shim
from tests.shim.engines.rows import (
    NAMES,
    adapted,
    alone,
    base_llama,
    distance,
    expect_rows,
    expect_rows_under_autocast,
    llama,
    sentences,
)

CPU = torch.device("cpu")
try:
    accelerate.cpu_offload(torch.nn.Linear(1, 1), CPU)(torch.ones(1, 1))
except AttributeError as error:  # newer ones ask for torch.compiler, which torch 2.0 has not
    pytest.skip(f"this accelerate does not work with this torch: {error}", allow_module_level=True)


def device_map_of(model, last):
    """Return what `device_map="auto"` would: a device for every part of `model`, another one for the last layer."""
    parts = [
        name for name, _ in model.named_modules() if name.endswith(("embed_tokens", "norm", "lm_head", "rotary_emb"))
    ]
    layers = [name for name, _ in model.named_modules() if name.endswith(("layers.0", "layers.1"))]
    outside = [part for part in parts if not any(part.startswith(layer) for layer in layers)]
    return {**dict.fromkeys([*outside, layers[0]], "cpu"), layers[1]: last}


def _dispatched(last):
    def dispatch(model, folder):
        return accelerate.dispatch_model(model, device_map_of(model, last), "cpu", offload_dir=folder, force_hooks=True)

    return dispatch


WAYS = {
    "on the cpu": lambda model, folder: accelerate.cpu_offload(model, CPU),
    "on disk": lambda model, folder: accelerate.disk_offload(model, folder, CPU),
    "dispatched": _dispatched("cpu"),
    "dispatched, in part to disk": _dispatched("disk"),
}


@pytest.fixture(params=WAYS)
def offload(request, tmp_path):
    return lambda model: WAYS[request.param](model, str(tmp_path / "weights"))


def test_rows_are_those_of_the_model_in_memory(offload):
    model, inputs = llama(), sentences(5)
    whole = copy.deepcopy(model)
    model = offload(model)
    for _ in range(2):
        with torch.no_grad():
            expect_rows(model(**inputs, adapter_names=NAMES).logits, whole, inputs, NAMES)
    assert shim.explain(model, inputs, NAMES).route == "one pass"


def test_rows_under_autocast_are_as_exact_as_alone(offload):
    model, inputs = llama().float(), sentences(5)
    whole = copy.deepcopy(model)
    model = offload(model)
    with torch.no_grad():
        for _ in range(2):
            expect_rows_under_autocast(lambda: model(**inputs, adapter_names=NAMES).logits, whole, inputs, NAMES)


def test_rows_that_are_rounded_too_far_are_seen():
    model, inputs = llama().float(), sentences(5)
    with torch.no_grad(), pytest.raises(AssertionError, match="off by"):
        expect_rows_under_autocast(lambda: model(**inputs, adapter_names=NAMES[::-1]).logits, model, inputs, NAMES)


def test_hooks_from_before_the_shim_are_split_around(offload):
    shim.uninstall()
    model, inputs = llama(), sentences(5)
    whole = copy.deepcopy(model)
    model = offload(model)
    shim.install()
    with torch.no_grad():
        expect_rows(model(**inputs, adapter_names=NAMES).logits, whole, inputs, NAMES)


@pytest.mark.parametrize("options", [{"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"lora_bias": True}])
def test_rows_of_other_layers(offload, options):
    try:
        model = llama(**options)
    except TypeError:
        pytest.skip("this peft has no such option")
    inputs = sentences(5)
    with torch.no_grad():
        try:
            expected = alone(model, inputs, NAMES)
            model = offload(model)
            own = [model(**inputs, adapter_names=[name] * 5).logits[row] for row, name in enumerate(NAMES)]
        except (RuntimeError, AttributeError) as error:
            pytest.skip(f"upstream fails on one adapter alone: {error}")
        assert distance(torch.stack(own), expected) <= 1e-9
        assert distance(model(**inputs, adapter_names=NAMES).logits, expected) <= 1e-9


def test_tokens_are_each_rows_own(offload):
    model, inputs = llama(), sentences(3)
    settings = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "use_cache": True}
    names = ["it", "__base__", "de"]
    expected = []
    for row, name in enumerate(names):
        one = {key: value[row : row + 1] for key, value in inputs.items()}
        expected.append(model.generate(**one, adapter_names=[name], **settings))
    assert len({tuple(row[0].tolist()) for row in expected}) == 3
    assert torch.equal(offload(model).generate(**inputs, adapter_names=names, **settings), torch.cat(expected))


def test_a_failed_call_leaves_the_weights_where_they_were(offload):
    model, inputs = llama(), sentences(5)
    whole = copy.deepcopy(model)
    model = offload(model)
    with torch.no_grad():
        model(**inputs, adapter_names=NAMES)
        places = [str(parameter.device) for parameter in model.parameters()]
        with pytest.raises(shim.AdapterNamesError):
            model(**inputs, adapter_names=NAMES[:2])
        assert [str(parameter.device) for parameter in model.parameters()] == places
        expect_rows(model(**inputs, adapter_names=NAMES).logits, whole, inputs, NAMES)
    assert any("forward" in vars(module) for module in model.modules()), "no hook is there"


def test_adapters_on_a_checkpoint_that_is_dispatched(tmp_path):
    whole, inputs = llama(), sentences(5)
    base_llama().save_pretrained(str(tmp_path / "base"))
    with accelerate.init_empty_weights():
        base = base_llama()
    device_map, folder = device_map_of(base, "disk"), str(tmp_path / "offload")
    base = accelerate.load_checkpoint_and_dispatch(base, str(tmp_path / "base"), device_map, offload_folder=folder)
    model = adapted(base.eval())
    for path, weight in whole.named_parameters():
        if "lora_" in path:  # PEFT leaves those of a layer on disk without values
            set_module_tensor_to_device(model, path, "cpu", weight.data)
    assert any(parameter.is_meta for parameter in model.parameters())
    with torch.no_grad():
        expect_rows(model(**inputs, adapter_names=NAMES).logits, whole, inputs, NAMES)
    assert shim.explain(model, inputs, NAMES).route == "one pass"
