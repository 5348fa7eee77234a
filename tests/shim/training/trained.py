"""Models to train, and the gradients that each adapter must get: those of its own rows, run alone."""

import random
import warnings

import numpy
import peft
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

NAMES = ["ann", "__base__", "ben", "ann"]
LOADED = ("ann", "ben", "cat")  # `cat` is in no batch


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
