"""Every tensor of an output is found, whatever holds it, and by one path each."""

import collections
import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from conformance.outputs import tensors_of

T = torch.ones(2)


@dataclasses.dataclass
class Pair:
    left: Any
    right: Any = None
    made: Any = dataclasses.field(init=False)


class Slots:
    __slots__ = ("y",)


class Named(collections.namedtuple("Named", "y z")):
    """A tuple with names."""


@pytest.mark.parametrize(
    ("output", "paths"),
    [
        (T, ["output"]),
        ((T, [T, None]), ["[0]", "[1][0]"]),
        ({"y": T, "more": {"z": T, 3: T}}, ["y", "more.z", "more.3"]),
        (collections.UserDict(y=T), ["y"]),
        (Named(T, 3), ["[0]"]),
        (Pair(T, Pair([T])), ["left", "right.left[0]"]),
        (SimpleNamespace(y=T, text="", parts=[SimpleNamespace(z=T)]), ["y", "parts[0].z"]),
        ({"distribution": torch.distributions.Normal(T, T)}, ["distribution.loc", "distribution.scale"]),
        ((Pair, nn.Linear(2, 2), len, torch, "text", 3, None, Slots()), []),
    ],
)
def test_tensors_are_found_by_path(output, paths):
    assert list(tensors_of(output)) == paths


def test_an_output_that_holds_itself_is_walked_once():
    output = SimpleNamespace(y=T)
    output.parts = [output, {"again": output, "z": T}]
    assert list(tensors_of(output)) == ["y", "parts[1].z"]
