"""The split route on modules that do all sorts of things to their batch: exact, or refused by name."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import shim

pytestmark = pytest.mark.usefixtures("split_only")
NAMES = ["ann", "__base__", "ben", "ann"]
X = torch.randn(4, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def plain(toy, x):
    return toy.linear(x)


def fold(toy, x):
    return toy.linear(x.reshape(-1, 3, 4)).reshape(x.shape)


def time_major(toy, x):
    return toy.linear(x.transpose(0, 1)).transpose(0, 1)


def flatten(toy, x):
    return toy.linear(x.reshape(1, -1, 4)).reshape(x.shape)


def tile(toy, x):
    doubled = toy.linear(torch.cat([x, x]))
    return doubled[: len(x)] + doubled[len(x) :]


def sort_and_unsort(toy, x):
    order = x[:, 0, 0].argsort()
    return toy.linear(x[order])[order.argsort()]


def numpy_round_trip(toy, x):
    return toy.linear(torch.from_numpy(x.numpy().copy()))


def with_attention(toy, x):
    rows = toy.linear(x)
    return torch.softmax(rows @ rows.transpose(1, 2), -1) @ rows


EXACT = [plain, fold, time_major, flatten, tile, sort_and_unsort, numpy_round_trip, with_attention]


def batch_mean(toy, x):
    return toy.linear(x) - x.mean(0)


def roll_over_the_batch(toy, x):
    return toy.linear(x.roll(1, 0))


def attention_over_the_batch(toy, x):
    rows = toy.linear(x[:, 0])
    return torch.softmax(rows @ rows.T, -1) @ rows


def top_k_over_the_batch(toy, x):
    rows = toy.linear(x)
    keep = x.sum((1, 2)).topk(max(1, len(x) // 2)).indices
    mask = torch.zeros(len(x), dtype=torch.bool)
    mask[keep] = True
    return rows * mask[:, None, None]


def position_in_the_batch(toy, x):
    return toy.linear(x) + torch.arange(len(x), dtype=x.dtype)[:, None, None]


def count_in_the_batch(toy, x):
    return toy.linear(x) / len(x)


def flip_by_numpy(toy, x):
    import numpy

    return toy.linear(torch.from_numpy(numpy.flip(x.numpy(), 0).copy()))


MIXING = [
    batch_mean,
    roll_over_the_batch,
    attention_over_the_batch,
    top_k_over_the_batch,
    position_in_the_batch,
    count_in_the_batch,
    flip_by_numpy,
]


@pytest.mark.parametrize("body", EXACT)
def test_each_row_is_its_own_adapters_whatever_is_done_to_the_batch(adapted, alone, body):
    model = adapted(body)
    mixed = model(X, adapter_names=NAMES)
    for row, name in enumerate(NAMES):
        expected = {other: alone(model, other, X)[row] for other in set(NAMES)}
        torch.testing.assert_close(mixed[row], expected[name], rtol=1e-9, atol=1e-12)
        for other in set(NAMES) - {name}:
            assert (expected[other] - expected[name]).abs().max() > 1e-3


@pytest.mark.parametrize("body", MIXING)
def test_a_model_that_mixes_samples_is_refused(adapted, body):
    model = adapted(body)
    with pytest.raises(shim.RefusedError, match=r"output 'output'.*(samples|sample).*one adapter a call"):
        model(X, adapter_names=NAMES)


@given(data=st.data(), seed=st.integers(0, 2**16))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_rows_come_back_in_order_for_any_assignment(data, seed):
    import peft

    names = data.draw(st.lists(st.sampled_from(["ann", "__base__", "ben"]), min_size=1, max_size=6))
    shim.install()
    try:
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            config = peft.LoraConfig(r=1, target_modules=["0"], init_lora_weights=False)
            model = peft.get_peft_model(torch.nn.Sequential(torch.nn.Linear(3, 3)), config, adapter_name="ann")
            model.add_adapter("ben", config)
            model = model.double().eval()
            x = torch.randn(len(names), 3, dtype=torch.float64)
            mixed = model(x, adapter_names=names)
            for row, name in enumerate(names):
                torch.testing.assert_close(mixed[row], model(x[row : row + 1], adapter_names=[name])[0])
    finally:
        shim.uninstall()


def test_a_failing_call_puts_the_random_generator_back(adapted):
    def body(toy, x):
        rows = toy.linear(x) + 0 * torch.rand(1, dtype=x.dtype)
        if failing and len(x) < 4:
            raise KeyboardInterrupt
        return rows

    failing = []
    model = adapted(body)
    model(X, adapter_names=NAMES)
    failing.append(True)
    before = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        model(X, adapter_names=NAMES)
    assert torch.equal(torch.get_rng_state(), before)


def test_gradients_flow_to_each_adapter_from_its_own_rows(adapted):
    model = adapted(plain)
    names = ["ann", "ben", "ben", "__base__"]
    weights = {k: p.requires_grad_() for k, p in model.named_parameters() if "lora_" in k}
    model(X, adapter_names=names)[1].sum().backward()
    got = {k: p.grad for k, p in weights.items()}
    assert all(grad is None or not grad.any() for k, grad in got.items() if ".ann." in k)
    assert all(grad.any() for k, grad in got.items() if ".ben." in k)


def test_an_argument_given_twice_is_an_error_as_without_names(adapted):
    model = adapted(lambda toy, x: toy.linear(x))
    model.get_base_model().forward = lambda x: model.get_base_model().body(model.get_base_model(), x)
    with pytest.raises(TypeError, match="multiple values for argument 'x'"):
        model(X, x=X, adapter_names=NAMES)
