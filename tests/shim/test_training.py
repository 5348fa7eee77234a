"""A mixed batch in training mode: each adapter gets the gradient of its own rows, as if it were trained alone (A4)."""

import copy
import random
import threading
import warnings

import numpy
import peft
import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import shim
from conformance.models.precision import default_dtype
from shim import recompute, training
from shim.routing import plans, route
from shim.routing.one_pass import run_one_pass

NAMES = ["ann", "__base__", "ben", "ann"]
LOADED = ("ann", "ben", "cat")  # `cat` is in no batch
CHECKPOINTS = [None, True, False]


@pytest.fixture(autouse=True)
def _shim(installed_shim):
    torch.manual_seed(0)
    with default_dtype(torch.float64):  # transformers 4.36 makes its masks in it
        yield


def trainable(model, adapters=LOADED):
    """Give the adapters random weights, each of which requires grad, and nothing else."""
    generator = torch.Generator().manual_seed(7)
    for path, weight in model.named_parameters():
        own = bool(set(adapters) & set(path.split(".")))
        weight.requires_grad_(own)
        if own:
            weight.data = weight.data / 3 + 0.4 * torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    return model


def llama(reentrant=None, dropout=0.0, attention_dropout=0.0, attention=None, **more):
    torch.manual_seed(0)
    base = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=48, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2, initializer_range=0.4,
            attention_dropout=attention_dropout, **({"attn_implementation": attention} if attention else {}),
        )
    )  # fmt: skip
    settings = {
        "ann": {"target_modules": ["q_proj", "v_proj", "embed_tokens"]},
        "ben": {"target_modules": ["v_proj", "down_proj"], "r": 3, "modules_to_save": ["lm_head"]},
        "cat": {"target_modules": ["v_proj"]},
    }
    model = None
    for name in LOADED:
        config = peft.LoraConfig(**{"r": 2, "lora_dropout": dropout, **settings[name], **more})
        if model is None:
            model = peft.get_peft_model(base, config, adapter_name=name)
        else:
            model.add_adapter(name, config)
    model = trainable(model.double()).train()
    if reentrant is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        model.enable_input_require_grads()  # without it a reentrant checkpoint of the first layer trains nothing
    return model


def tokens(samples=4, length=5, seed=3):
    return torch.randint(3, 48, (samples, length), generator=torch.Generator().manual_seed(seed))


def loss_of(logits, weight=1.0):
    """A different demand on every element, so that no row's gradient is another's."""
    weights = torch.arange(logits.numel(), dtype=torch.float64).cos().view(logits.shape)
    return weight * (logits * weights).sum()


def gradients(model):
    return {path: None if w.grad is None else w.grad.clone() for path, w in model.named_parameters()}


def sequential(model, run, samples=4, names=NAMES):
    """The gradients of each row alone under `set_adapter`, added up; `run(rows)` is the loss of those rows."""
    for row, name in enumerate(names):
        if name == "__base__":
            continue
        model.set_adapter(name)
        for path, weight in model.named_parameters():
            weight.requires_grad_(name in path.split("."))
        run(model, row).backward()
    return gradients(model)


def llama_row(x):
    def run(model, row):
        logits = model(input_ids=x[row : row + 1]).logits
        weights = torch.arange(len(x) * logits.numel(), dtype=torch.float64).cos().view(len(x), *logits.shape[1:])
        return (logits * weights[row : row + 1]).sum()

    return run


def assert_same(found, expected, rtol=1e-9):
    assert found.keys() == expected.keys()
    for path, want in expected.items():
        assert (found[path] is None) is (want is None), f"{path}: {found[path]} for {want}"
        if want is not None:
            torch.testing.assert_close(
                found[path], want, rtol=rtol, atol=rtol / 1000, msg=lambda m, path=path: path + m
            )


def own(found, adapter):
    return {path: grad for path, grad in found.items() if adapter in path.split(".")}


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
def test_several_batches_may_wait_for_one_backward(reentrant):
    """Each checkpoint is run again under the names of its own call, also on another thread."""
    other = ["ben", "ann", "ann", "__base__"]
    first, second = tokens(seed=3), tokens(length=7, seed=4)
    model = llama()
    sequential(model, llama_row(first))
    want = sequential(model, llama_row(second), names=other)

    model = llama(reentrant)
    loss = loss_of(model(input_ids=first, adapter_names=NAMES).logits)
    loss = loss + loss_of(model(input_ids=second, adapter_names=other).logits)
    thread = threading.Thread(target=loss.backward)
    thread.start()
    thread.join()
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


def test_a_torch_whose_checkpoints_would_forget_the_names_is_refused(monkeypatch):
    from torch.utils import checkpoint

    assert recompute.remembers()
    shim.uninstall()
    assert not recompute.remembers.__wrapped__()  # it is the patch that remembers
    shim.install()
    assert recompute.remembers.__wrapped__()
    name = next(name for name in recompute._WITHOUT_REENTRY if hasattr(checkpoint, name))
    monkeypatch.setattr(checkpoint, name, getattr(checkpoint, name).__wrapped__)
    monkeypatch.setattr(training, "remembers", recompute.remembers.__wrapped__)
    with pytest.raises(shim.RefusedError, match="forget the names"):
        llama().train()(input_ids=tokens(), adapter_names=NAMES)


def test_a_checkpoint_draws_the_same_again():
    """The dropout of a layer that is run again drops what it dropped."""
    found = []
    for reentrant in CHECKPOINTS:
        model = llama(reentrant, dropout=0.3, attention_dropout=0.2)
        torch.manual_seed(5)
        loss_of(model(input_ids=tokens(), adapter_names=NAMES).logits).backward()
        found.append(gradients(model))
    assert_same(found[1], found[0])
    assert_same(found[2], found[0])


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

    want = sequential(llama().float(), run)
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


class Masked(nn.Module):
    """A dropout whose mask is given: in training mode it keeps the features of its adapter's `kept`."""

    def __init__(self, kept):
        super().__init__()
        self.kept = kept

    def forward(self, x):
        keep = torch.arange(x.shape[-1]) % 4 != self.kept
        return x * keep / 0.75 if self.training else x


def with_masks(model):
    for module in model.modules():
        for index, name in enumerate(LOADED):
            if name in getattr(module, "lora_dropout", ()):
                module.lora_dropout[name] = Masked(index)
    return model.train()


def test_rows_are_dropped_by_their_own_adapter():
    want = sequential(with_masks(llama(dropout=0.1)), llama_row(tokens()))
    model = with_masks(llama(dropout=0.1))
    loss_of(model(input_ids=tokens(), adapter_names=NAMES).logits).backward()
    assert_same(gradients(model), want)
    without = sequential(llama(), llama_row(tokens()))
    worst = max((want[p] - without[p]).abs().max() for p in want if want[p] is not None)
    assert worst > 1e-3, "the masks change nothing"


@pytest.mark.parametrize("probabilities", [(0.5, 0.5), (0.25, 0.75), (0.5, 0.0)])
def test_rows_are_dropped_with_their_adapters_probability(probabilities):
    """The base gives 0 and each adapter the identity, so that the output is the dropout itself."""
    width = 400
    base = nn.Sequential(nn.Linear(width, width, bias=False))
    nn.init.zeros_(base[0].weight)
    settings = {"r": width, "lora_alpha": width, "target_modules": ["0"]}
    one, other = (peft.LoraConfig(lora_dropout=p, **settings) for p in probabilities)
    model = peft.get_peft_model(base, one, adapter_name="ann")
    model.add_adapter("ben", other)
    for path, weight in model.named_parameters():
        if "lora" in path:
            weight.data = torch.eye(width)
            weight.requires_grad_(True)
    rows = model.train()(torch.ones(8, width), adapter_names=["ann", "ben", "__base__", "ann"] * 2)
    assert not rows[[2, 6]].any()
    for name, indices in (("ann", [0, 3, 4, 7]), ("ben", [1, 5])):
        p = probabilities[name == "ben"]
        kept = rows[indices] != 0
        torch.testing.assert_close(rows[indices][kept], torch.full_like(rows[indices][kept], 1 / (1 - p)))
        spread = (p * (1 - p) / kept.numel()) ** 0.5
        assert abs(kept.double().mean() - (1 - p)) <= 5 * spread
    assert not torch.equal(rows[0], rows[3]) or probabilities[0] == 0, "two rows are dropped alike"


def test_a_training_step_draws_as_one_forward_does():
    """Neither a trace nor the adapters take from the random numbers of the model's own dropout."""
    model = llama(attention_dropout=0.5)
    torch.manual_seed(5)
    model(input_ids=tokens())
    after = torch.get_rng_state()
    for _ in range(2):  # traced, then replayed
        torch.manual_seed(5)
        state, array = random.getstate(), numpy.random.get_state()[1].tolist()
        model(input_ids=tokens(), adapter_names=NAMES)
        assert torch.equal(torch.get_rng_state(), after)
        assert random.getstate() == state
        assert numpy.random.get_state()[1].tolist() == array


class Noted(nn.Module):
    """Counts its forwards in a buffer, draws by every generator, and may keep what adapters change."""

    def __init__(self, keeps=False, normalises=False):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4) if normalises else nn.Identity()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("kept", torch.zeros(4))
        self.keeps, self.fails = keeps, False

    def forward(self, x):
        if self.training:
            self.calls += 1
            random.random(), numpy.random.rand()
        x = self.norm(self.linear(x))
        if self.keeps:
            self.kept = 0.9 * self.kept + x.detach().mean(0)
        if self.fails:
            raise RuntimeError("planted")
        return x


def noted(**about):
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, target_modules=["linear"])
    model = peft.get_peft_model(Noted(**about), config, adapter_name="ann")
    model.add_adapter("ben", config)
    return trainable(model.double(), ("ann", "ben")).train()


def test_a_trace_leaves_no_trace_in_buffers_nor_generators():
    model, x = noted(), torch.randn(4, 4, dtype=torch.float64)
    random.seed(1), numpy.random.seed(1)
    expected = random.random(), numpy.random.rand()
    random.seed(1), numpy.random.seed(1)
    model(x, adapter_names=NAMES)
    assert model.base_model.model.calls == 1
    random.seed(1), numpy.random.seed(1)
    model(x[:2], adapter_names=NAMES[:2])  # traced anew
    model.base_model.model.fails = True
    before = random.getstate()
    with pytest.raises(RuntimeError, match="planted"):
        model(x[:3], adapter_names=NAMES[:3])
    assert model.base_model.model.calls == 2
    assert random.getstate() == before
    random.seed(1), numpy.random.seed(1)
    assert (random.random(), numpy.random.rand()) == expected


def test_a_buffer_that_waits_for_a_backward_is_not_written_to():
    model, x = noted(normalises=True), torch.randn(4, 4, dtype=torch.float64)
    norm = model.base_model.model.norm.eval()
    loss = loss_of(model(x, adapter_names=NAMES))
    versions = [buffer._version for buffer in norm.buffers()]
    assert versions
    model(x[:3], adapter_names=NAMES[:3])  # a trace, beside a graph that holds the running mean
    assert [buffer._version for buffer in norm.buffers()] == versions
    loss.backward()


def test_a_buffer_that_keeps_what_adapters_change_is_not_shared_by_them():
    """One pass would keep the mean over all adapters' rows, so the batch is split, as it is when trained in turn."""
    x = torch.randn(4, 4, dtype=torch.float64)
    model = noted(keeps=True)
    explanation = shim.explain(model, {"x": x}, NAMES)
    assert explanation.route == "split"
    assert "the buffer base_model.model.kept is written with what adapters change" in explanation.reason
    assert not model.base_model.model.kept.any()


def test_batch_statistics_are_refused_by_name():
    model, x = noted(normalises=True), torch.randn(4, 4, dtype=torch.float64)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(shim.RefusedError, match=r"base_model\.model\.norm \(BatchNorm1d\).*\.eval\(\)"):
        model(x, adapter_names=NAMES)
    after = model.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)
    model(x, adapter_names=["ann"] * 4)  # its own ordinary forward
    model.base_model.model.norm.eval()

    def run(model, row):
        weights = torch.arange(16, dtype=torch.float64).cos().view(4, 4)
        return (model(x[row : row + 1]) * weights[row]).sum()

    loss_of(model(x, adapter_names=NAMES)).backward()
    again = noted(normalises=True)
    again.load_state_dict(model.state_dict())
    again.base_model.model.norm.eval()
    assert_same(gradients(model), sequential(again, run))


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


class ForeignCheckpoint(torch.autograd.Function):
    """What another library's checkpoint does: the forward without gradients, and once more in the backward."""

    @staticmethod
    def forward(ctx, function, x):
        ctx.function = function
        ctx.save_for_backward(x)
        with torch.no_grad():
            return function(x)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            torch.autograd.backward(ctx.function(x), grad)
        return None, x.grad


@pytest.mark.parametrize("names", [NAMES, ["ben"] * 4])
def test_a_checkpoint_of_another_library_is_refused(names):
    """It would run its layers again under whatever is active then."""
    model, x = noted(), torch.randn(4, 4, dtype=torch.float64, requires_grad=True)
    linear = model.base_model.model.linear
    original = linear.forward
    model.base_model.model.linear = Through(linear)
    del original
    with pytest.raises(shim.RefusedError, match=r"torch\.no_grad\(\) inside a training call"):
        model(x, adapter_names=names)


class Through(nn.Module):
    def __init__(self, linear):
        super().__init__()
        self.inner = linear

    def forward(self, x):
        return ForeignCheckpoint.apply(self.inner, x)


def test_a_failed_step_can_be_taken_again():
    model = llama(dropout=0.5, attention_dropout=0.5)
    model(input_ids=tokens(), adapter_names=NAMES)
    torch.manual_seed(5)
    head = model.base_model.model.lm_head
    failing = head.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(input_ids=tokens(), adapter_names=NAMES)
    failing.remove()
    loss_of(model(input_ids=tokens(), adapter_names=NAMES).logits).backward()
    found = gradients(model)
    again = llama(dropout=0.5, attention_dropout=0.5)
    torch.manual_seed(5)
    loss_of(again(input_ids=tokens(), adapter_names=NAMES).logits).backward()
    assert_same(found, gradients(again))


class Skipping(nn.Module):
    """Skips its layers by chance in training mode, as layerdrop does."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))

    def forward(self, x):
        for layer in self.layers:
            if not (self.training and torch.rand([]) < 0.5):
                x = torch.tanh(layer(x))
        return x


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_layers_that_are_skipped_by_chance_are_skipped_for_all_rows_or_for_each_adapter(dropout):
    """With the same draws a row is that of the whole batch under its adapter; else each adapter has its own draws."""
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, target_modules=["0", "1", "2", "3"], lora_dropout=dropout)
    model = peft.get_peft_model(Skipping(), config, adapter_name="ann")
    model.add_adapter("ben", config)
    model = trainable(model.double(), ("ann", "ben")).train()
    x = torch.randn(4, 4, dtype=torch.float64)
    seen = set()
    for seed in range(12):
        torch.manual_seed(seed)
        mixed = model(x, adapter_names=["ann", "ben", "ben", "ann"])
        assert mixed.shape == x.shape
        seen.add(tuple(mixed[0].tolist()))
        if dropout:
            continue
        for name, rows in (("ann", [0, 3]), ("ben", [1, 2])):
            model.set_adapter(name)
            torch.manual_seed(seed)
            torch.testing.assert_close(mixed[rows], model(x)[rows], rtol=1e-9, atol=1e-12)
        trainable(model, ("ann", "ben"))
    assert len(seen) > 3, "nothing was skipped"
