"""A mixed batch in training mode: each adapter gets the gradient of its own rows, as if it were trained alone (A4)."""

import warnings

import peft
import pytest
import torch
import transformers
from packaging.version import Version
from torch import nn
from transformers import MixtralConfig, MixtralForCausalLM

import shim
from shim.routing import plans, route
from shim.routing.one_pass import run_one_pass
from tests.shim.training.trained import (
    LOADED,
    NAMES,
    assert_same,
    gradients,
    llama,
    llama_row,
    loss_of,
    own,
    sequential,
    tokens,
    trainable,
)

CHECKPOINTS = [None, True, False]


def split_only(monkeypatch):
    def unroutable(*_):
        raise shim.errors.Unroutable("one pass is switched off")

    monkeypatch.setattr(route, "run_one_pass", unroutable)


def live_only(monkeypatch):
    monkeypatch.setattr(route, "run_one_pass", lambda *call: run_one_pass(*call[:4], live=True))
    original = plans._traced
    decided = shim.routing.owners.BY_ADAPTERS

    def traced(*call):
        plan = original(*call)
        calls = tuple(shim.routing.plan.replace(one, by_data=decided) for one in plan.calls)
        return shim.routing.plan.replace(plan, calls=calls)

    monkeypatch.setattr(plans, "_traced", traced)


ROUTES = {"one pass": lambda monkeypatch: None, "split": split_only, "live": live_only}


@pytest.mark.parametrize("reentrant", CHECKPOINTS)
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("way", ROUTES)
def test_each_adapter_gets_the_gradient_of_its_own_rows(way, train, reentrant, monkeypatch):
    want = sequential(llama().train(train), llama_row(tokens()))
    ROUTES[way](monkeypatch)
    model = llama(reentrant).train(train)
    loss_of(model(input_ids=tokens(), adapter_names=NAMES).logits).backward()
    found = gradients(model)
    assert_same(found, want)
    for name in ("ann", "ben"):
        assert any(grad is not None and grad.abs().max() > 1e-3 for grad in own(found, name).values())
    assert all(grad is None for grad in own(found, "cat").values()), "an adapter of no row got a gradient"


@pytest.mark.parametrize("reentrant", CHECKPOINTS)
def test_a_batch_of_one_adapter_trains_that_one_whatever_is_active(reentrant):
    want = sequential(llama(), llama_row(tokens()), names=["ben"] * 4)
    model = llama(reentrant)
    loss_of(model(input_ids=tokens(), adapter_names=["ben"] * 4).logits).backward()
    assert_same(gradients(model), want)


@pytest.mark.parametrize("reentrant", CHECKPOINTS)
def test_steps_of_an_optimizer_are_those_of_training_one_at_a_time(reentrant):
    """Weight decay and momentum would move an adapter that got zeros for a gradient."""

    def steps(model, step):
        weights = [w for path, w in model.named_parameters() if set(LOADED) & set(path.split("."))]
        optimizer = torch.optim.SGD(weights, lr=0.05, momentum=0.9, weight_decay=0.1)
        for number in range(3):
            step(model, tokens(seed=number), ["ann"] * 4 if number == 2 else NAMES)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return {path: w.detach().clone() for path, w in model.named_parameters()}

    def mixed(model, x, names):
        loss_of(model(input_ids=x, adapter_names=names).logits).backward()

    def alone(model, x, names):
        sequential(model, llama_row(x), names=names)

    start = {path: w.detach().clone() for path, w in llama().named_parameters()}
    found, want = steps(llama(reentrant), mixed), steps(llama(), alone)
    assert_same(found, want)
    for path in found:
        assert torch.equal(found[path], start[path]) is not bool({"ann", "ben"} & set(path.split("."))), path


def test_gradients_of_gradients_are_right():
    model = llama(attention="eager")  # torch has no second derivative of its fused attention
    weights = [w for path, w in model.named_parameters() if "ann" in path.split(".")]

    def penalty(logits):
        loss = loss_of(torch.tanh(logits))
        return sum((g**2).sum() for g in torch.autograd.grad(loss, weights, create_graph=True))

    rows = [0, 3]
    names = ["ann", "ben", "ann", "__base__"]
    x = tokens()[[0, 1, 3, 2]]
    mixed = torch.autograd.grad(penalty(model(input_ids=x, adapter_names=names).logits[[0, 2]]), weights)
    model.set_adapter("ann")
    alone = torch.autograd.grad(penalty(model(input_ids=tokens()[rows]).logits), weights)
    for a, b in zip(mixed, alone):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_autocast_trains_as_each_row_alone():
    def run(model, row):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return llama_row(tokens())(model, row)

    try:
        want = sequential(llama().float(), run)
    except RuntimeError as error:
        if "to have the same dtype" not in str(error):  # of torch's attention, beside transformers 4.43
            raise
        pytest.skip(f"upstream trains no adapter alone so: {error}")
    truth = sequential(llama(), llama_row(tokens()))
    model = llama().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss_of(model(input_ids=tokens(), adapter_names=NAMES).logits).backward()
    for path, grad in gradients(model).items():
        assert (grad is None) is (want[path] is None)
        if grad is not None:
            size = truth[path].norm()
            assert (grad.double() - truth[path]).norm() / size <= 4 * max(
                (want[path].double() - truth[path]).norm() / size, 2**-8
            )


def test_the_loss_is_of_all_samples_in_training_mode_only():
    model = llama()
    output = model(input_ids=tokens(), labels=tokens(), adapter_names=NAMES)
    shifted = output.logits[:, :-1].reshape(-1, 48), tokens()[:, 1:].reshape(-1)
    want = nn.functional.cross_entropy(shifted[0].float(), shifted[1])  # transformers takes its losses in float32
    torch.testing.assert_close(output.loss, want)
    output.loss.backward()

    def run(model, row):
        x = tokens()[row : row + 1]
        return model(input_ids=x, labels=x).loss / 4

    assert_same(gradients(model), sequential(llama(), run), rtol=1e-5)
    with pytest.raises(shim.RefusedError, match="'loss'"), torch.no_grad():
        model.eval()(input_ids=tokens(), labels=tokens(), adapter_names=NAMES)


def test_a_split_takes_no_labels_and_its_logits_carry_gradients(monkeypatch):
    split_only(monkeypatch)
    model = llama()
    with pytest.raises(shim.RefusedError, match="compute it from the logits of the whole batch"):
        model(input_ids=tokens(), labels=tokens(), adapter_names=NAMES)
    logits = model(input_ids=tokens(), adapter_names=NAMES).logits[:, :-1].reshape(-1, 48)
    nn.functional.cross_entropy(logits.float(), tokens()[:, 1:].reshape(-1)).backward()

    def run(model, row):
        x = tokens()[row : row + 1]
        return model(input_ids=x, labels=x).loss / 4

    assert_same(gradients(model), sequential(llama(), run), rtol=1e-5)


def test_a_frozen_adapter_is_warned_of_and_stays_frozen():
    model = llama()
    for path, weight in model.named_parameters():
        if "ben" in path.split("."):
            weight.requires_grad_(False)
    with pytest.warns(UserWarning, match="'ben' is in a training batch, but none of its weights requires grad"):
        output = model(input_ids=tokens(), adapter_names=NAMES)
    loss_of(output.logits).backward()
    found = gradients(model)
    assert all(grad is None for grad in own(found, "ben").values())
    want = sequential(llama(), llama_row(tokens()))
    assert_same(own(found, "ann"), own(want, "ann"))


def test_names_in_evaluation_mode_or_without_gradients_ask_for_none():
    model = llama().requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.eval()(input_ids=tokens(), adapter_names=NAMES)
        with torch.no_grad():
            model.train()(input_ids=tokens(), adapter_names=NAMES)


def test_generate_is_refused_in_training_mode():
    with pytest.raises(shim.RefusedError, match=r"generate .* training mode.*model\.eval\(\)"):
        llama().generate(input_ids=tokens(), adapter_names=NAMES, max_new_tokens=2)


def fused_experts():
    """A Mixtral whose experts two adapters change; from transformers 5 on they are parameters of one module."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "vocab_size": 48}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2}
    base = MixtralForCausalLM(MixtralConfig(**sizes, **heads, experts_implementation="eager", initializer_range=0.4))
    targets = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], target_parameters=targets, init_lora_weights=False)
    model = peft.get_peft_model(base, config, adapter_name="ann")
    try:
        model.add_adapter("ben", config)
    except ValueError as error:  # PEFT took one such adapter only
        pytest.skip(str(error))
    return trainable(model.double(), ("ann", "ben")).train()


@pytest.mark.skipif(Version(transformers.__version__) < Version("5"), reason="experts are modules of their own")
@pytest.mark.parametrize("names", [["__base__", "ann", "ben"], ["ann", "__base__", "ben"], ["ben", "ann", "__base__"]])
def test_fused_experts_are_trained_whichever_row_comes_first(names):
    """An adapter's parametrization writes over the weights that the backward of the base's rows reads."""
    shim.install(fallback="refuse")
    model, x = fused_experts(), tokens(samples=3)
    loss_of(model(input_ids=x, adapter_names=names).logits).backward()
    assert_same(gradients(model), sequential(fused_experts(), llama_row(x), names=names))
