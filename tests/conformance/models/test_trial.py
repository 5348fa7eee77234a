"""What the suite cannot examine of a user's model is said in words before any check, with the way out."""

import pytest
import torch

from conformance.__main__ import USAGE, main
from conformance.models.own import own_model
from conformance.models.trial import try_alone
from conformance.selection import CannotLoad
from tests.conformance import odd_models
from tests.conformance.own_models import module

HERE = "tests.conformance.odd_models"


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("single_precision", r"runs as it is, but should in float64 too.* it raised RuntimeError.*x\.to\(self"),
        ("half_precision", r"runs as it is, but should in float64 too.*Nothing can be checked in a lower precision"),
        ("other_argument", r"does not run on the inputs.* it raised TypeError.*'y'.*arguments of its forward, by name"),
        ("batches_only", r"runs on 4 samples, but should on one alone too: it raised IndexError"),
        ("uncopied", r"cannot be copied .*: it raised TypeError: one and only"),
        ("textual", r"returns a str without any tensor in it"),
    ],
)
def test_a_model_that_no_check_can_run_is_told_apart(function, said):
    with pytest.raises(CannotLoad, match=rf"^{HERE}:{function} returned a Odd that {said}"):
        own_model(f"own:{HERE}:{function}")


def test_it_must_be_built_more_than_once(monkeypatch):
    monkeypatch.setattr(odd_models, "CALLS", [])
    said = r"raised ValueError: the name is taken \[.*odd_models.py:\d+\]\. Its first call was fine"
    with pytest.raises(CannotLoad, match=said):
        own_model(f"own:{HERE}:once")


def test_a_function_may_return_one_model_each_time_and_find_it_as_it_was():
    own_model(f"own:{HERE}:always_the_same")
    model, inputs = odd_models.always_the_same()
    assert model.up.weight.dtype is inputs["x"].dtype is torch.float32
    assert not hasattr(model.up, "base_layer")


@pytest.mark.parametrize("function", ["integers", "dataclass", "namesakes", "default_precision"])
def test_what_can_be_examined_is_let_through(function):
    assert own_model(f"own:{HERE}:{function}").targets


def test_the_trial_leaves_the_random_numbers_alone():
    model, inputs = module()
    model.register_forward_hook(lambda *_: torch.rand(1))
    before = torch.get_rng_state()
    try_alone("mine", model, lambda: model, inputs)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_default_dtype() is torch.float32


def test_cuda_is_tried_where_the_cpu_will_not_do(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    tried = []

    def refuse(device):
        tried.append(device)
        raise RuntimeError("not here")

    model, inputs = module()
    monkeypatch.setattr(type(model), "to", lambda self, device: refuse(device))
    with pytest.raises(CannotLoad, match="it raised RuntimeError: not here"):
        try_alone("mine", model, lambda: model, inputs)
    assert tried == ["cpu", "cuda"]


@pytest.mark.parametrize("function", ["single_precision", "other_argument", "textual", "equal_samples"])
def test_the_command_ends_in_wrong_usage_before_any_check(capsys, function):
    assert main(["check", f"{HERE}:{function}", "--checks", "R1"]) == USAGE
    shown = capsys.readouterr()
    assert shown.err.startswith(f"conformance: {HERE}:{function} returned ")
    assert not shown.out
