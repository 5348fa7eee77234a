import pytest
import torch

from conformance.models.every.wide import without_narrowing

NARROWINGS = {
    "float": lambda x: x.float(),
    "to": lambda x: x.to(torch.float32),
    "to by keyword": lambda x: x.to(dtype=torch.bfloat16),
    "type": lambda x: x.type(torch.float32),
    "softmax": lambda x: torch.nn.functional.softmax(x, dim=-1, dtype=torch.float32),
    "half": lambda x: x.half(),
}


@pytest.mark.parametrize("name", NARROWINGS)
def test_nothing_is_narrowed_within_and_all_is_as_before_without(name):
    x = torch.randn(2, 3, dtype=torch.float64)
    with without_narrowing():
        assert NARROWINGS[name](x).dtype is torch.float64
    assert NARROWINGS[name](x).dtype is not torch.float64


def test_integers_stay_integers():
    with without_narrowing():
        assert torch.zeros(2).to(torch.int32).dtype is torch.int32
        assert torch.zeros(2, dtype=torch.bool).long().dtype is torch.int64
