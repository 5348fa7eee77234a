import dataclasses

import pytest
import torch
from torch import nn

from conformance.case import Case
from conformance.compare import Mismatch
from conformance.models import MODELS
from conformance.models.model import Model
from conformance.oracle import NotBatchable
from conformance.outputs import Place, row_dim, tensors_of
from conformance.scenarios import Adapter, Scenario

INTEGERS = MODELS["integers"]
ANN = Adapter("ann", targets=INTEGERS.targets)
BEN = Adapter("ben", rank=1, alpha=2, targets=INTEGERS.targets)
SCENARIO = Scenario((ANN, BEN), ("ann", "__base__", "ben"), INTEGERS.lengths[0], "ann", seed=3)


def toy(body, name="toy"):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x):
            return body(self.linear, x)

    return Model(
        name=name, architecture="", build=Net, targets=("linear",), saved=(), tags=frozenset(), lengths=(3,),
        inputs=lambda samples, length, generator: {"x": torch.randn(samples, length, 4, generator=generator)},
    )  # fmt: skip


def case(body):
    adapters = (Adapter("ann", targets=("linear",)), Adapter("ben", targets=("linear",)))
    return Case(toy(body), Scenario(adapters, ("ann", "__base__", "ben"), 3, "ann"), "cpu")


def test_an_adapters_weights_do_not_depend_on_which_others_are_loaded():
    built = Case(INTEGERS, SCENARIO, "cpu")
    together = dict(built.peft_model.named_parameters())
    for name in ("ann", "ben"):
        for path, parameter in built.oracle.model_of(name).named_parameters():
            assert torch.equal(parameter, together[path]), path


def test_the_rows_of_the_oracle_are_the_rows_run_alone():
    built = Case(INTEGERS, SCENARIO, "cpu")
    for row in range(3):
        alone = built.oracle.run("ben", row)
        for path, expected in built.oracle.expected("ben", row).items():
            assert torch.equal(expected, alone[path])


def test_a_model_whose_rows_depend_on_each_other_is_not_believed():
    mixing = case(lambda linear, x: linear(x) - linear(x).mean(0))
    with pytest.raises(NotBatchable, match="the model's own batch is not consistent"):
        mixing.oracle.expected("ann", 0)


@pytest.mark.parametrize(
    "body",
    [
        lambda linear, x: linear(x),
        lambda linear, x: linear(x).transpose(0, 1),
        lambda linear, x: linear(x).reshape(-1, 4),
        lambda linear, x: linear(x).transpose(0, 1).reshape(-1, 4),
        lambda linear, x: 100 + linear(x).transpose(0, 1).reshape(-1, 4),  # a wrong row is nearly right
        lambda linear, x: {"deep": [(linear(x).sum(-1),)]},
    ],
)
def test_rows_are_found_wherever_they_are(body):
    built = case(body)
    for row in range(3):
        alone = built.oracle.run("ann", row)
        expected = built.oracle.expected("ann", row)
        assert expected.keys() == alone.keys()
        for path in expected:
            torch.testing.assert_close(expected[path], alone[path])


def test_outputs_that_mix_samples_are_known():
    built = case(lambda linear, x: {"rows": linear(x), "pairs": linear(x)[:, 0] @ linear(x)[:, 0].T})
    assert set(built.oracle.mixing_outputs()) == {"pairs"}
    assert set(built.oracle.expected("ann", 0)) == {"rows"}


def test_an_output_that_a_row_alone_does_not_have_mixes_samples():
    def pairs(linear, x):
        y = linear(x)
        return {"rows": y, "pairs": y[1:] - y[:-1]} if len(x) > 1 else {"rows": y}

    built = case(pairs)
    assert set(built.oracle.mixing_outputs()) == {"pairs"}
    assert set(built.oracle.expected("ann", 0)) == {"rows"}


def test_rows_of_an_output_are_found_before_anything_else_was_asked():
    built = case(lambda linear, x: linear(x))
    output = built.oracle.model_of("ann")(**built.inputs)
    assert torch.equal(built.oracle.rows_of(output, 1)["output"], output[1:2])


def test_a_batch_of_one_is_its_own_row():
    built = Case(toy(lambda linear, x: linear(x)), dataclasses.replace(SCENARIO, rows=("ann",), length=3), "cpu")
    built.scenario = dataclasses.replace(built.scenario, adapters=(Adapter("ann", targets=("linear",)),))
    built.oracle._scenario = built.scenario
    assert built.oracle.expected("ann", 0)["output"].shape == (1, 3, 4)


def test_a_wrong_row_is_a_mismatch_whatever_the_suite_is_told():
    built = Case(INTEGERS, SCENARIO, "cpu")
    output = built.oracle.model_of("ann")(**built.inputs)
    with pytest.raises(Mismatch, match="It is what 'ann' would give"):
        built.expect_rows(output, SCENARIO.rows)


def test_places_give_blocks_and_tiles():
    rows = torch.arange(6)
    assert Place(0, blocks=True).row(rows, 1, 3).tolist() == [2, 3]
    assert Place(0, blocks=False).row(rows, 1, 3).tolist() == [1, 4]


@pytest.mark.parametrize(
    ("whole", "single", "dim"),
    [
        ((3, 4), (1, 4), 0),
        ((4, 3), (4, 1), 1),
        ((6, 4), (2, 4), 0),
        ((3, 3), (1, 1), None),
        ((4,), (4,), None),
    ],
)
def test_the_row_dimension_is_the_one_that_shrinks(whole, single, dim):
    assert row_dim(torch.zeros(whole), torch.zeros(single), 3) == dim


def test_tensors_are_found_in_any_nesting():
    found = tensors_of({"a": [torch.ones(1), (torch.ones(2), None)], "b": 3})
    assert {path: len(tensor) for path, tensor in found.items()} == {"a[0]": 1, "a[1][0]": 2}
