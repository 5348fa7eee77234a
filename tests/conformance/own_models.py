"""Models as a user would hand them to the suite: functions that return (model, inputs)."""

import peft
import torch
import transformers
from torch import nn


class Pooling(nn.Module):
    """A module without a configuration whose batch is folded, and whose layers' names clash with others'."""

    def __init__(self):
        super().__init__()
        self.stack = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8))
        self.tail = nn.Sequential(nn.Tanh(), nn.Linear(8, 3))

    def forward(self, x):
        folded = self.stack(x.flatten(0, 1))
        return self.tail(folded.unflatten(0, x.shape[:2]).mean(1))


def module():
    return Pooling(), {"x": torch.arange(72.0).view(3, 4, 6).sin()}


def causal():
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=32, **sizes))
    ids = torch.arange(12).view(3, 4) * 5 % 28 + 3
    return model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def adapted():
    model, inputs = causal()
    return peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"])), inputs


def model_alone():
    return causal()[0]


def configuration():
    return transformers.ViTConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8,
        architectures=["ViTForImageClassification"],
    )  # fmt: skip


class Mixing(Pooling):
    """Every row has a part of the others in it."""

    def forward(self, x):
        return super().forward(x) + super().forward(x).mean(0)


def mixing():
    return Mixing(), module()[1]


def nothing():
    return None


def without_layers():
    return nn.Tanh(), {"input": torch.eye(2)}


def without_tensors():
    return module()[0], {"x": [1, 2]}


def one_sample():
    model, inputs = module()
    return model, {"x": inputs["x"][:1]}


def raising():
    raise RuntimeError("no weights here")
