import pytest
import torch
from transformers.pytorch_utils import Conv1D

from conformance.models.every.targets import convolutions, embeddings, expert_parameters, layers, linear_layers


class OwnLookup(torch.nn.Embedding):
    def forward(self, mask):
        return super().forward(mask.cumsum(1))


class ScaledWordEmbedding(torch.nn.Embedding):
    def forward(self, ids):
        return 2 * super().forward(ids)


class ToyExperts(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.up = torch.nn.Parameter(torch.zeros(2, 3, 4))
        self.bias = torch.nn.Parameter(torch.zeros(2, 3))


class Namesake(torch.nn.Module):
    """Called as transformers calls its transposed Linear, which PEFT would not take it for."""


Namesake.__name__ = "Conv1D"


@pytest.fixture
def model():
    made = torch.nn.Module()
    made.words, made.places, made.scaled = torch.nn.Embedding(4, 2), OwnLookup(4, 2), ScaledWordEmbedding(4, 2)
    made.linear, made.transposed = torch.nn.Linear(2, 2), Conv1D(2, 2)
    made.namesake = Namesake()
    made.attention = torch.nn.MultiheadAttention(4, 2)
    made.whole, made.grouped = torch.nn.Conv2d(4, 4, 1), torch.nn.Conv2d(4, 4, 1, groups=2)
    made.experts = ToyExperts()
    return made


def test_each_kind_is_found(model):
    assert linear_layers(model) == ["linear", "transposed"]
    assert embeddings(model) == ["words", "scaled"]
    assert convolutions(model) == ["whole"]
    assert expert_parameters(model) == ["experts.up"]


def test_stages_add_to_the_first(model):
    linear = linear_layers(model)
    assert layers(model, "linear_layers") == (linear, [])
    assert layers(model, "embeddings_and_convolutions") == (linear, ["words", "scaled", "whole"])
    assert layers(model, "fused_experts") == (linear, [])


def test_a_stage_without_layers_of_its_own_is_empty():
    plain = torch.nn.Sequential(torch.nn.Linear(2, 2))
    assert layers(plain, "linear_layers") == (["0"], [])
    assert layers(plain, "embeddings_and_convolutions") == ([], [])
    assert layers(plain, "fused_experts") == ([], [])
