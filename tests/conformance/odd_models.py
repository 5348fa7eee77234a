"""Functions of a user's that return what the suite takes with care, or cannot take."""

import dataclasses

import peft
import torch
import transformers
from torch import nn

from tests.conformance.own_models import causal


class Perceptron(nn.Module):
    """Two layers, whose output is of the class `kind`: a tensor where that is None."""

    kind = None

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        y = self.down(torch.tanh(self.up(x)))
        return y if self.kind is None else self.kind(y)


def made(**members):
    """Return a model of a class of its own, with inputs of four samples."""
    x = torch.arange(24.0).view(4, 6).sin()
    return type("Odd", (Perceptron,), members)(), {"x": x}


def encoded():
    model, inputs = causal()
    return model, transformers.BatchEncoding(inputs)


def listed():
    return list(made())


def positional():
    model, inputs = made()
    return model, (inputs["x"],)


def tensor():
    return made()[0], torch.eye(6)


def triple():
    return (*made(), "more")


def exchanged():
    return made()[::-1]


def equal_samples():
    model, inputs = made()
    return model, {"x": inputs["x"][[0, 1, 2, 1]]}


def equal_masks():
    model, inputs = causal()
    return model, {**inputs, "attention_mask": torch.ones_like(inputs["input_ids"])}


def single_precision():
    return made(forward=lambda self, x: Perceptron.forward(self, x.float()))


def default_precision():
    """Return a model that makes a tensor without saying of which dtype."""
    return made(forward=lambda self, x: Perceptron.forward(self, x @ torch.eye(6)))


def half_precision():
    model, inputs = made(forward=lambda self, x: Perceptron.forward(self, x.bfloat16()))
    return model.to(torch.bfloat16), inputs


def other_argument():
    model, inputs = made()
    return model, {"y": inputs["x"]}


def batches_only():
    return made(forward=lambda self, x: Perceptron.forward(self, x[[0, 1]]))


def uncopied():
    def refuse(self, memo):
        raise TypeError("one and only")

    return made(__deepcopy__=refuse)


def textual():
    return made(kind=str)


def integers():
    return made(forward=lambda self, x: Perceptron.forward(self, x).argmax(-1))


CALLS = []


def once():
    CALLS.append(1)
    if len(CALLS) > 1:
        raise ValueError("the name is taken")
    return made()


THE_ONE = made()


def always_the_same():
    return THE_ONE


@dataclasses.dataclass
class Answer:
    y: torch.Tensor


def dataclass():
    return made(kind=Answer)


class Linear(nn.Module):
    """Not torch's, though of its name."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(6))

    def forward(self, x):
        return x @ self.weight


class Scaled(nn.Linear):
    """A subclass of torch's, which PEFT adapts too."""


class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.mine, self.scaled = Linear(), Scaled(6, 3)

    def forward(self, x):
        return self.scaled(self.mine(x))


def namesakes():
    return Mine(), made()[1]


def injected():
    model, inputs = made()
    return peft.inject_adapter_in_model(peft.LoraConfig(target_modules=["up"]), model), inputs


def prompted():
    model, inputs = causal()
    return peft.get_peft_model(model, peft.PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")), inputs


class Left(peft.tuners.lora.LoraLayer, nn.Module):
    """A layer of PEFT's around nothing."""

    def __init__(self):
        nn.Module.__init__(self)

    def forward(self, x):
        return x


def left_over():
    model, inputs = made()
    model.tail = Left()
    return model, inputs
