"""Packed models: the same parameters, the same values, in one memory a layer, which mixed batches read in place."""

import copy
import io
import pickle

import peft
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

import shim
from shim.kernels.weights import side_by_side, weights_by_rank
from shim.routing.storage import address, storage_of

NAMES = ("ann", "ben", "cat")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 5)
        self.second = nn.Linear(5, 4)
        self.config = {"model_type": "custom"}

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


def config(rank=2, **more):
    return peft.LoraConfig(r=rank, target_modules=["first", "second"], init_lora_weights=False, **more)


def build(ranks=(2, 2, 2)):
    torch.manual_seed(0)
    model = peft.get_peft_model(Net(), config(ranks[0]), adapter_name=NAMES[0])
    for name, rank in zip(NAMES[1:], ranks[1:]):
        model.add_adapter(name, config(rank))
    return model.double().eval()


def layers(model):
    return [model.base_model.model.first, model.base_model.model.second]


def in_place(model, names=NAMES):
    """Whether each layer's weights of `names` lie side by side, all of them."""
    found = [weights for layer in layers(model) for _, weights in weights_by_rank(layer, sorted(names))]
    with torch.no_grad():
        return [side_by_side(w.downs) is not None and side_by_side(w.ups) is not None for w in found]


def adapters_of(model):
    return {name: p for name, p in model.named_parameters() if "lora_" in name}


def alone(model, x, names):
    rows = []
    for row, name in enumerate(names):
        with model.disable_adapter() if name == "__base__" else torch.no_grad():
            if name != "__base__":
                model.set_adapter(name)
            rows.append(model(x[row : row + 1]))
    model.set_adapter(NAMES[0])
    return torch.cat(rows)


def assert_own_rows(model, names=("ann", "cat", "__base__", "ben", "ann")):
    x = torch.randn(len(names), 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = alone(model, x, names)
        assert len({tuple(row) for row in alone(model, x[:1].expand(3, -1), NAMES).tolist()}) == 3, "alike"
        torch.testing.assert_close(model(x, adapter_names=list(names)), expected, rtol=1e-12, atol=1e-12)


def test_parameters_stay_what_they_are_and_share_one_memory(installed_shim):
    model = build()
    before = {name: (id(p), p.detach().clone(), p.requires_grad) for name, p in adapters_of(model).items()}
    assert in_place(model) == [False, False]
    moved = shim.pack(model)
    after = adapters_of(model)
    assert moved == sum(p.numel() * p.element_size() for p in after.values())
    assert in_place(model) == [True, True]
    for name, parameter in after.items():
        identity, value, requires_grad = before[name]
        assert (id(parameter), parameter.requires_grad) == (identity, requires_grad)
        assert torch.equal(parameter, value)
        assert parameter.is_contiguous()
    storages = {address(p): storage_of(p).nbytes() for p in after.values()}
    assert sum(storages.values()) == moved, "the memory of the adapters is not what their values take"
    assert shim.pack(model) == 0
    assert_own_rows(model)


def test_nothing_is_copied_for_a_packed_model(installed_shim, monkeypatch):
    import shim.kernels.layer

    model = build()
    shim.pack(model)
    monkeypatch.setattr(shim.kernels.layer, "bank_of", None)
    monkeypatch.setattr(shim.kernels.layer, "Segments", None)
    assert_own_rows(model)
    with pytest.raises(TypeError):
        assert_own_rows(build())


@pytest.mark.parametrize("ranks", [(2, 2, 2), (2, 3, 2), (1, 2, 3)])
def test_rows_of_a_packed_model_are_their_own(installed_shim, ranks):
    model = build(ranks)
    shim.pack(model)

    @given(st.lists(st.sampled_from([*NAMES, "__base__"]), min_size=1, max_size=9))
    def check(names):
        assert_own_rows(model, names)

    check()


def test_training_reaches_each_adapters_own_weights(installed_shim):
    packed, plain = build(), build()
    shim.pack(packed)
    x = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for model in (packed, plain):
        for parameter in adapters_of(model).values():
            parameter.requires_grad_(True)
        optimizer = torch.optim.AdamW(adapters_of(model).values(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            model(x, adapter_names=["ann", "cat", "ben"]).square().sum().backward()
            optimizer.step()
    for name, parameter in adapters_of(packed).items():
        torch.testing.assert_close(parameter, adapters_of(plain)[name], rtol=1e-9, atol=1e-12)
    assert in_place(packed) == [True, True]
    assert_own_rows(packed)


def test_weights_that_change_are_seen(installed_shim):
    model = build()
    shim.pack(model)
    assert_own_rows(model)
    for parameter in adapters_of(model).values():
        parameter.data.mul_(1.5)
    assert_own_rows(model)
    model.load_state_dict({name: 2 * value for name, value in model.state_dict().items()})
    assert in_place(model) == [True, True]
    assert_own_rows(model)


@pytest.mark.parametrize("rank", [1, 2, 4])
@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_an_adapter_that_is_swapped_hot_is_seen(installed_shim, tmp_path, packed, prepared, rank):
    hotswap = pytest.importorskip("peft.utils.hotswap", reason="huggingface/peft#2120, 0.14, brought it")
    if not hasattr(hotswap, "prepare_model_for_compiled_hotswap"):
        pytest.skip("huggingface/peft#2177, 0.15, lets ranks and scalings differ")
    peft.get_peft_model(Net(), config(rank, lora_alpha=24)).double().save_pretrained(tmp_path)
    model = build()
    if prepared:  # scalings become tensors, and weights are padded
        hotswap.prepare_model_for_compiled_hotswap(model, target_rank=4)
    if packed:
        shim.pack(model)
    assert_own_rows(model)
    x = torch.ones(1, 6, dtype=torch.float64)
    before = model(x, adapter_names=["ben"])
    hotswap.hotswap_adapter(model, str(tmp_path), adapter_name="ben")
    assert (model(x, adapter_names=["ben"]) - before).abs().max() > 1e-3
    assert_own_rows(model)


def test_what_breaks_the_memory_is_as_right_and_packed_again(installed_shim):
    model = build()
    shim.pack(model)
    first = layers(model)[0]
    first.lora_A["ben"].weight.data = first.lora_A["ben"].weight.data.clone() * 3
    assert in_place(model) == [False, True]
    assert_own_rows(model)
    assert 0 < shim.pack(model) < sum(p.numel() * 8 for p in adapters_of(model).values())
    assert in_place(model) == [True, True]
    model.float().double()
    assert in_place(model) == [False, False]
    assert_own_rows(model)
    model.add_adapter("dan", config(2))
    model.double()
    shim.pack(model)
    assert in_place(model, [*NAMES, "dan"]) == [True, True]
    model.delete_adapter("ben")
    shim.pack(model)
    x = torch.randn(2, 6, dtype=torch.float64)
    with torch.no_grad():
        expected = alone(model, x, ["cat", "dan"])
        torch.testing.assert_close(model(x, adapter_names=["cat", "dan"]), expected, rtol=1e-12, atol=1e-12)


def test_saving_merging_and_copying_go_on(installed_shim, tmp_path):
    model = build()
    shim.pack(model)
    model.save_pretrained(str(tmp_path))
    size = (tmp_path / "ann" / "adapter_model.safetensors").stat().st_size
    alone_bytes = sum(p.numel() * 8 for name, p in adapters_of(model).items() if ".ann." in name)
    assert size < alone_bytes + 4096
    torch.manual_seed(0)
    again = peft.PeftModel.from_pretrained(Net(), str(tmp_path / "ann"), adapter_name="ann")
    for name in NAMES[1:]:
        again.load_adapter(str(tmp_path / name), adapter_name=name)
    again.double().eval()
    for name, parameter in adapters_of(model).items():
        assert torch.equal(parameter, adapters_of(again)[name])
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    stored = torch.load(buffer)
    assert all(torch.equal(stored[name], value) for name, value in model.state_dict().items())
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        adapters_of(other)["base_model.model.first.lora_A.ann.weight"].data.zero_()
        assert adapters_of(model)["base_model.model.first.lora_A.ann.weight"].any()
        assert_own_rows(other, ["ben", "cat"])
    before = copy.deepcopy(model.state_dict())
    model.merge_adapter(["ann"])
    model.unmerge_adapter()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name])
    assert_own_rows(model)


def refused(model, words):
    before = {name: p.data_ptr() for name, p in adapters_of(model).items()}
    with pytest.raises(shim.RefusedError, match=words):
        shim.pack(model)
    assert {name: p.data_ptr() for name, p in adapters_of(model).items()} == before


def test_memory_that_is_not_the_adapters_own_is_left_alone(installed_shim):
    shared = build()
    layers(shared)[1].lora_B["cat"].weight.share_memory_()
    refused(shared, "second.* shares with processes")
    offloaded = build()
    weight = layers(offloaded)[1].lora_B["cat"]
    weight.weight = nn.Parameter(weight.weight.to("meta"))
    refused(offloaded, "second.* meta device")
    flat = build()
    weight = layers(flat)[1].lora_B["cat"].weight
    weight.data = torch.cat([weight.data.flatten(), torch.zeros(7).double()])[: weight.numel()].view(weight.shape)
    refused(flat, "second.* somebody else laid out")


def test_layers_whose_adapters_are_more_than_two_weights_stay(installed_shim):
    model = build()
    before = {name: p.data_ptr() for name, p in adapters_of(model).items()}
    layers(model)[0].lora_A["ben"].register_forward_hook(lambda *_: None)
    shim.pack(model)
    moved = {name for name, p in adapters_of(model).items() if p.data_ptr() != before[name]}
    assert moved == {name for name in before if "second" in name}
    assert_own_rows(model)


def test_layers_whose_weights_are_made_at_each_call_stay(installed_shim):
    model = build()
    prune.l1_unstructured(layers(model)[0].lora_A["ben"], "weight", amount=0.5)
    before = {name: p.data_ptr() for name, p in adapters_of(model).items()}
    shim.pack(model)
    moved = {name for name, p in adapters_of(model).items() if p.data_ptr() != before[name]}
    assert moved == {name for name in before if "second" in name}
    assert_own_rows(model)
