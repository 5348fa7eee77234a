"""The row alone, under its adapter: the definition of right, and nothing clever.

Each adapter is put on a base model of its own, where no other adapter ever was, and run without
`adapter_names`. Two references must agree before either is believed: the row run by itself, and the row in
the whole batch run under that adapter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, Mapping, Optional, Tuple

from conformance.compare import FLOAT64_TOLERANCE, relative_error
from conformance.outputs import Place, Tensors, row_dim, tensors_of
from conformance.scenarios import BASE, Scenario
from conformance.subject import base_model, with_adapters

if TYPE_CHECKING:
    from conformance.models import Model


class NotBatchable(Exception):
    """The model's own batch is not consistent: a row alone is not that row in a batch."""


class Oracle:
    """What each row of a scenario should be, under any adapter."""

    def __init__(self, model: Model, scenario: Scenario, inputs: Mapping[str, Any], device: str) -> None:
        self._model, self._scenario, self._inputs, self._device = model, scenario, inputs, device
        self._samples = len(scenario.rows)
        self._models: Dict[str, Any] = {}
        self._runs: Dict[Tuple[str, Optional[int]], Tensors] = {}
        self._places: Optional[Dict[str, Optional[Place]]] = None

    def model_of(self, adapter: str) -> Any:
        """Return a model that holds `adapter` and nothing else; the base model for `__base__`."""
        if adapter not in self._models:
            if adapter == BASE:
                self._models[adapter] = base_model(self._model, self._device)
            else:
                (spec,) = (spec for spec in self._scenario.adapters if spec.name == adapter)
                self._models[adapter] = with_adapters(self._model, [spec], self._scenario.seed, self._device)
        return self._models[adapter]

    def run(self, adapter: str, row: Optional[int] = None) -> Tensors:
        """Return the outputs of the whole batch, or of one `row` by itself, under `adapter`; each is run once."""
        import torch

        if (adapter, row) not in self._runs:
            inputs = self._inputs
            if row is not None:
                inputs = {
                    name: value[row : row + 1] if isinstance(value, torch.Tensor) else value
                    for name, value in inputs.items()
                }
            with torch.no_grad():
                self._runs[adapter, row] = tensors_of(self.model_of(adapter)(**inputs))
        return self._runs[adapter, row]

    def expected(self, adapter: str, row: int) -> Tensors:
        """Return the output tensors of `row` under `adapter`.

        Raises:
            NotBatchable: the two references disagree.
        """
        whole, single = self.run(adapter), self.run(adapter, row)
        places = self._find_places(adapter)
        found = rows_at(whole, places, row, self._samples)
        for path, observed in found.items():
            error = relative_error(observed, single[path])
            if error > FLOAT64_TOLERANCE:
                raise NotBatchable(
                    f"row {row} of output {path!r} in the batch differs by {error:.1e} from that row alone, both "
                    f"under {adapter!r}: the model's own batch is not consistent"
                )
        return found

    def rows_of(self, output: Any, row: int) -> Tensors:
        """Return the tensors of `row` in an output of the whole batch."""
        return rows_at(tensors_of(output), self._find_places(BASE), row, self._samples)

    def mixing_outputs(self) -> Dict[str, Any]:
        """Return the output tensors in which no row belongs to one sample, by path."""
        places = self._find_places(BASE)
        return {path: tensor for path, tensor in self.run(BASE).items() if path not in places}

    def _find_places(self, adapter: str) -> Dict[str, Optional[Place]]:
        """Return where rows are in each output; None for the only row of a batch of one."""
        if self._places is None:
            whole, singles = self.run(adapter), [self.run(adapter, row) for row in range(self._samples)]
            found = {path: _place(tensor, [s.get(path) for s in singles]) for path, tensor in whole.items()}
            self._places = {path: place for path, (rows, place) in found.items() if rows}
        return self._places


def rows_at(tensors: Tensors, places: Mapping[str, Optional[Place]], row: int, samples: int) -> Tensors:
    """Return the rows of one sample of every output that has rows."""
    return {
        path: tensors[path] if place is None else place.row(tensors[path], row, samples)
        for path, place in places.items()
        if path in tensors
    }


def _place(whole: Any, singles: Any) -> Any:
    """Return whether the tensor has rows, and where: the one place that gives back every row alone."""
    samples = len(singles)
    if samples == 1:
        return True, None
    if any(single is None for single in singles):
        return False, None
    dim = row_dim(whole, singles[0], samples)
    if dim is None:
        return False, None
    for place in (Place(dim, blocks=True), Place(dim, blocks=False)):
        rows = [place.row(whole, row, samples) for row in range(samples)]
        if all(relative_error(row, single) <= 1e-6 for row, single in zip(rows, singles)):
            return True, place
    return True, Place(dim, blocks=True)  # `expected` reports that the model is not batchable
