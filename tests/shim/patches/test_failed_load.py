"""A load that fails leaves the model as it was: no part of the adapter, no value of one that had its name."""

import json
import threading

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertConfig, BertModel

import shim
from shim.patches import failed_load


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 3)
        self.config = {"model_type": "custom"}

    def forward(self, x):
        return self.second(self.first(x))


def adapter(r=2, targets=("first",), **more):
    return peft.LoraConfig(r=r, target_modules=list(targets), init_lora_weights=False, **more)


def build():
    torch.manual_seed(0)
    model = peft.get_peft_model(Net(), adapter(), adapter_name="ann")
    model.add_adapter("ben", adapter(4, modules_to_save=["second"]))
    return model.double().eval()


def snapshot(model):
    """All that a model is made of: every module's attributes by name, every value, and the random generator."""
    modules = {
        name: {key: repr(value) for key, value in vars(module).items() if key not in ("_modules", "_parameters")}
        for name, module in model.named_modules()
    }
    values = {name: value.clone() for name, value in model.state_dict().items()}
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    return modules, flags, torch.get_rng_state().tolist(), values


def assert_same(before, after):
    assert before[:3] == after[:3]
    assert before[3].keys() == after[3].keys()
    assert all(torch.equal(value, after[3][name]) for name, value in before[3].items())


def cut_off(folder):
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def no_weights(folder):
    (folder / "adapter_model.safetensors").write_bytes(b"")


def not_json(folder):
    (folder / "adapter_config.json").write_text("{")


def of_another_width(folder):
    path = folder / "adapter_model.safetensors"
    weights = load_file(str(path))
    last = sorted(weights)[-1]
    save_file({**{name: -value for name, value in weights.items()}, last: torch.cat([weights[last]] * 2)}, str(path))


def of_another_rank(folder):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "r": 3}))


def saved(model, name, folder):
    model.save_pretrained(str(folder), selected_adapters=[name])
    return folder / name


def loads():
    """(how a folder is spoiled, whose it is, the name to load it by); of a name that is known no settings are read."""
    weights, settings = (cut_off, no_weights, of_another_width), (not_json, of_another_rank)
    yield from ((spoil, source, "new") for spoil in (*weights, *settings) for source in ("ann", "ben"))
    yield from ((spoil, source, name) for spoil in weights for source in ("ann", "ben") for name in ("ann", "ben"))


@pytest.mark.parametrize(("spoil", "source", "name"), loads())
def test_nothing_is_left_of_a_load_that_fails(installed_shim, tmp_path, spoil, source, name):
    model = build()
    folder = saved(model, source, tmp_path)
    spoil(folder)
    before = snapshot(model)
    with pytest.raises(Exception, match=r".") as raised:
        model.load_adapter(str(folder), adapter_name=name)
    assert_same(before, snapshot(model))
    if hasattr(raised.value, "add_note"):
        assert raised.value.__notes__ == [f"adapter {name!r} was not loaded, and the model is as it was before"]
    with pytest.raises(shim.UnknownAdapterError, match="new"), torch.no_grad():
        model(torch.ones(2, 6).double(), adapter_names=["new", "ann"])


def test_the_probe_sees_the_defect_and_that_it_is_mended():
    shim.uninstall()
    assert failed_load.is_broken()
    shim.install()
    try:
        assert not failed_load.is_broken()
    finally:
        shim.uninstall()


def test_a_load_that_succeeds_is_upstreams_own(installed_shim, tmp_path):
    model = build()
    folder = saved(model, "ben", tmp_path)
    model.load_adapter(str(folder), adapter_name="new")
    model.double()
    x = torch.ones(2, 6).double()
    with torch.no_grad():
        assert torch.equal(*model(x, adapter_names=["new", "ben"]))
        assert not torch.equal(*model(x, adapter_names=["new", "ann"]))


def test_an_interrupt_leaves_nothing_too(installed_shim, tmp_path, monkeypatch):
    from peft import peft_model

    model = build()
    folder = saved(model, "ann", tmp_path)
    before = snapshot(model)

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(peft_model, "set_peft_model_state_dict", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.load_adapter(str(folder), adapter_name="new")
    assert_same(before, snapshot(model))


def test_arguments_that_fit_nothing_are_pythons_own_error(installed_shim):
    with pytest.raises(TypeError):
        build().load_adapter()


def test_a_model_with_adapters_of_its_own_is_left_likewise(installed_shim, tmp_path):
    torch.manual_seed(0)
    model = BertModel(
        BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9)
    )
    config = adapter(targets=("query",))
    model.add_adapter(config, adapter_name="ann")
    torch.manual_seed(0)
    plain = BertModel(model.config)
    peft.get_peft_model(plain, config, adapter_name="ann").save_pretrained(str(tmp_path))
    folder = tmp_path / "ann"
    cut_off(folder)
    before = snapshot(model)
    for name in ("new", "ann"):
        with pytest.raises(Exception, match=r"."):
            model.load_adapter(str(folder), adapter_name=name)
        assert_same(before, snapshot(model))


def test_calls_of_other_threads_go_on_while_loads_fail(installed_shim, tmp_path):
    model = build()
    folder = saved(model, "ben", tmp_path)
    cut_off(folder)
    x, names = torch.randn(3, 6).double(), ["ann", "__base__", "ann"]
    with torch.no_grad():
        expected = model(x, adapter_names=names)
    stop, wrong = threading.Event(), []

    def call():
        while not stop.is_set():
            try:
                with torch.no_grad():
                    if not torch.equal(model(x, adapter_names=names), expected):
                        wrong.append("another output")
            except Exception as error:
                wrong.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    for _ in range(5):
        with pytest.raises(Exception, match=r"."):
            model.load_adapter(str(folder), adapter_name="new")
    stop.set()
    thread.join()
    assert not wrong


def test_a_load_that_fails_takes_back_no_other_threads_load():
    """Loads go one after the other: what one puts back is what was there when it began."""
    model, begun, threads = build(), threading.Event(), []

    def load(self, adapter_name):
        if adapter_name == "good":
            self.add_adapter("good", adapter())
            return
        begun.set()
        threads[0].join(timeout=0.3)  # the other's load, which waits
        raise ValueError("cut off")

    load_adapter = failed_load._all_or_nothing(load)
    threads.append(threading.Thread(target=lambda: begun.wait() and load_adapter(model, adapter_name="good")))
    threads[0].start()
    with pytest.raises(ValueError, match="cut off"):
        load_adapter(model, adapter_name="bad")
    threads[0].join()
    assert "good" in model.peft_config
    assert any(".good." in name for name, _ in model.named_parameters())
