import pytest
import torch

from conformance.scenarios import BASE
from conformance.sweep.adapted import ADAPTERS, CannotAdapt, under, with_adapters


class Toy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.words = torch.nn.Embedding(8, 4)
        self.up = torch.nn.Linear(4, 4)

    def forward(self, x):
        return self.up(self.words(x))


class Blind(Toy):
    def get_input_embeddings(self):
        raise NotImplementedError("not auto-handled")


X = torch.tensor([[1, 2, 3]])


def outputs(adapted):
    found = {}
    for name in (*ADAPTERS, BASE):
        with under(adapted, name), torch.no_grad():
            found[name] = adapted(X)
    return found


@pytest.mark.parametrize("modules", [["up"], ["words"], ["up", "words"]])
def test_adapters_are_strong_and_unlike_each_other_and_the_base(modules):
    model = Toy().double()
    expected = model(X)
    found = outputs(with_adapters(model, modules, []))
    assert torch.equal(found[BASE], expected)
    assert all(value.dtype is torch.float64 for value in found.values())
    gaps = [(found[a] - found[b]).abs().max() for a, b in (("ann", "ben"), ("ann", BASE), ("ben", BASE))]
    assert min(gaps) > 0.01


def test_the_model_itself_stays_as_it_was():
    model = Toy()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with_adapters(model, ["up"], [])
    assert type(model.up) is torch.nn.Linear
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_weights_are_the_same_every_time():
    model = Toy()
    first, second = (with_adapters(model, ["up"], []).state_dict() for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_model_that_knows_of_no_embeddings_can_be_adapted():
    found = outputs(with_adapters(Blind(), ["up"], []))
    assert not torch.equal(found["ann"], found[BASE])


def test_what_peft_refuses_is_no_fault_of_the_model():
    with pytest.raises(CannotAdapt, match="PEFT refuses"):
        with_adapters(Toy(), ["nothing.of.the.kind"], [])
