"""One scenario set up on one model: the mixed call under test beside the oracle that knows the answer."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Callable, Dict, Mapping, Optional, Sequence, Type

from conformance.compare import EXACT, FLOAT64, Evidence, Tier, compare_row
from conformance.oracle import Oracle
from conformance.scenarios import BASE, Scenario
from conformance.subject import device_named, inputs_of, with_adapters

if TYPE_CHECKING:
    from conformance.models import Model


class Case:
    """What a check is given: `peft_model` with all adapters, `inputs`, and `oracle`.

    Everything is made afresh for each scenario, so a check may change what it likes.
    """

    def __init__(self, model: Model, scenario: Scenario, device: str = "auto") -> None:
        self.model, self.scenario, self.device = model, scenario, device_named(device)
        self.inputs: Dict[str, Any] = inputs_of(model, scenario, self.device)
        self.oracle = Oracle(model, scenario, self.inputs, self.device)

    @functools.cached_property
    def peft_model(self) -> Any:
        """The model under test, with every adapter of the scenario and the scenario's active one."""
        scenario = self.scenario
        return with_adapters(self.model, scenario.adapters, scenario.seed, self.device, scenario.active)

    @property
    def rows(self) -> Sequence[str]:
        """The adapter of each row."""
        return self.scenario.rows

    @property
    def tier(self) -> Tier:
        """How equal two rows must be on this model."""
        return EXACT if "integer" in self.model.tags else FLOAT64

    def mixed(self, names: Optional[Sequence[str]] = None, inputs: Optional[Mapping[str, Any]] = None) -> Any:
        """Run the mixed call under test, with the very `names` that are given."""
        import torch

        given = list(self.rows) if names is None else names
        with torch.no_grad():
            return self.peft_model(**(self.inputs if inputs is None else inputs), adapter_names=given)

    def inputs_like(self, names: Sequence[str], length: int) -> Dict[str, Any]:
        """Return inputs of another call on the same model: one sample for each name, of another length."""
        other = replace(self.scenario, rows=tuple(names), length=length)
        return inputs_of(self.model, other, self.device)

    def poison(self, name: str) -> None:
        """Let the weights of adapter `name` be nan and inf, in turns."""
        for path, parameter in self.peft_model.named_parameters():
            if name in path.split("."):
                parameter.data.fill_(float("nan"))
                parameter.data.flatten()[::2] = float("inf")

    def plain(self) -> Any:
        """Run the batch without names, under whatever is active."""
        import torch

        with torch.no_grad():
            return self.peft_model(**self.inputs)

    def expect_rows(
        self, output: Any, names: Sequence[str], rows: Optional[Sequence[int]] = None, power: bool = True
    ) -> Evidence:
        """Compare rows of an output of the whole batch with each row alone under its name.

        Raises:
            Mismatch, Vacuous: see `compare_row`.
        """
        evidence = Evidence()
        for row in range(len(names)) if rows is None else rows:
            others = self._others(names[row], names, row) if power else {}
            evidence += compare_row(
                self.oracle.rows_of(output, row),
                self.oracle.expected(names[row], row),
                others,
                self.tier,
                f"row {row} under {names[row]!r} of {list(names)}, {self.model.name}",
            )
        return evidence

    def _others(self, name: str, names: Sequence[str], row: int) -> Dict[str, Any]:
        """What the row would be under every other adapter of the batch, the active one, and none."""
        candidates = dict.fromkeys([*names, self.scenario.active, BASE])
        return {other: self.oracle.expected(other, row) for other in candidates if other != name}


def reordered(inputs: Mapping[str, Any], order: Sequence[int]) -> Dict[str, Any]:
    """Return inputs with the samples in another order, or repeated."""
    import torch

    return {name: value.index_select(0, torch.tensor(order, device=value.device)) for name, value in inputs.items()}


def raised_by(function: Callable[[], Any], kind: Type[BaseException] = Exception) -> Optional[BaseException]:
    """Return what `function` raises, of that kind, None where it returns: who interrupts the suite means the suite."""
    try:
        function()
    except kind as error:
        return error
    return None
