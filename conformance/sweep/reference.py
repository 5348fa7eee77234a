"""What is right: each row alone under its adapter, and the whole batch under one adapter; and where rows are."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from conformance.compare import relative_error
from conformance.models.every.batch import Batch
from conformance.outputs import Tensors, tensors_of
from conformance.scenarios import BASE
from conformance.sweep.adapted import under

SEED = 3
HUGE = 1e30


class Place:
    """Where the samples of a batch are in an output: a dimension, and rows of it in blocks or in tiles."""

    def __init__(self, dim: int, blocks: bool) -> None:
        self.dim, self.blocks = dim, blocks

    def rows(self, tensor: Any, sizes: Sequence[int], sample: int) -> Any:
        """Return the rows of one `sample` in `tensor`, whose samples have `sizes` rows."""
        if self.blocks:
            return tensor.narrow(self.dim, sum(sizes[:sample]), sizes[sample])
        import torch

        return tensor.index_select(self.dim, torch.arange(sample, tensor.shape[self.dim], len(sizes)))


def run(model: Any, batch: Batch, **more: Any) -> Tensors:
    """Return the output tensors of a pass; models that draw random numbers draw the same ones every time."""
    import torch

    torch.manual_seed(SEED)
    with torch.no_grad():
        return {path: masked(tensor) for path, tensor in tensors_of(model(**batch.arguments, **more)).items()}


def masked(tensor: Any) -> Any:
    """Return the tensor with infinity for what a model masks by its dtype's largest number: it is no size to err by."""
    if not tensor.is_floating_point():
        return tensor
    return tensor.masked_fill(tensor > HUGE, float("inf")).masked_fill(tensor < -HUGE, float("-inf"))


class Reference:
    """The runs of one batch on one model, each done once, by `run`: a forward, unless told otherwise.

    `places` says where the samples are in each output, and `unlike` by how much a row in the batch differs from that
    row alone, under one adapter, for outputs where it does. `rowless` outputs have no rows, or rows whose shape depends
    on the rows beside them.
    """

    def __init__(self, model: Any, batch: Batch, tolerance: float, run: Callable[..., Tensors] = run) -> None:
        self.model, self.batch, self.tolerance = model, batch, tolerance
        self._call = run
        self._runs: Dict[Tuple[str, Optional[int]], Tensors] = {}
        self.places: Dict[str, Place] = {}
        self.unlike: Dict[str, float] = {}
        self.rowless: List[str] = []
        self._find_places()

    def whole(self, adapter: str) -> Tensors:
        """Return the outputs of the whole batch under `adapter`."""
        return self._run(adapter, None)

    def alone(self, adapter: str, sample: int) -> Tensors:
        """Return the outputs of one sample, by itself, under `adapter`."""
        return self._run(adapter, sample)

    def sizes(self, path: str, dim: int, samples: Sequence[int]) -> List[int]:
        """Return how many rows each of the samples has in the output at `path`."""
        return [int(self.alone(BASE, sample)[path].shape[dim]) for sample in samples]

    def rows_of(self, outputs: Mapping[str, Any], samples: Sequence[int], position: int) -> Tensors:
        """Return the rows at `position` in the outputs of a batch of `samples`, of every output that has rows."""
        found = {}
        for path, place in self.places.items():
            if path in outputs:
                sizes = self.sizes(path, place.dim, samples)
                if outputs[path].dim() > place.dim and outputs[path].shape[place.dim] == sum(sizes):
                    found[path] = place.rows(outputs[path], sizes, position)
        return found

    @property
    def batchable(self) -> bool:
        """Whether every row of the batch is that row alone."""
        return not self.unlike

    def _run(self, adapter: str, sample: Optional[int]) -> Tensors:
        if (adapter, sample) not in self._runs:
            batch = self.batch if sample is None else self.batch.of([sample])
            with under(self.model, adapter):
                self._runs[adapter, sample] = self._call(self.model, batch)
        return self._runs[adapter, sample]

    def _find_places(self) -> None:
        whole = self.whole(BASE)
        alone = [self.alone(BASE, sample) for sample in range(self.batch.samples)]
        for path, tensor in whole.items():
            singles = [single.get(path) for single in alone]
            found = _place(tensor, singles, self.batch.samples)
            if found is None:
                self.rowless.append(path)
                continue
            place, gap = found
            if not _fits(place, tensor, singles):
                self.rowless.append(path)
                continue
            self.places[path] = place
            if gap > self.tolerance:
                self.unlike[path] = gap


def _fits(place: Place, whole: Any, singles: Sequence[Any]) -> bool:
    """Whether the rows of every sample have the shape that they have alone."""
    sizes = [int(single.shape[place.dim]) for single in singles]
    rows = [place.rows(whole, sizes, sample) for sample in range(len(singles))]
    return all(row.shape == single.shape for row, single in zip(rows, singles))


def _place(whole: Any, singles: Sequence[Any], samples: int) -> Optional[Tuple[Place, float]]:
    """Return the place that gives back the rows alone, and how far from them it is; None where there are no rows."""
    if any(single is None or single.dim() != whole.dim() for single in singles) or whole.dim() == 0:
        return None
    if samples == 1:
        return Place(0, blocks=True), relative_error(whole, singles[0])
    grown = [dim for dim in range(whole.dim()) if any(single.shape[dim] != whole.shape[dim] for single in singles)]
    divided = [dim for dim in grown if sum(int(single.shape[dim]) for single in singles) == whole.shape[dim]]
    if len(divided) > 1 and divided == grown:
        return None  # every sample stands beside every other
    candidates = []
    for dim in divided:
        sizes = [int(single.shape[dim]) for single in singles]
        for blocks in (True, False) if len(set(sizes)) == 1 and sizes[0] > 1 else (True,):
            place = Place(dim, blocks)
            rows = [place.rows(whole, sizes, sample) for sample in range(samples)]
            gap = max(relative_error(row, single) for row, single in zip(rows, singles))
            candidates.append((place, gap))
    return min(candidates, key=lambda candidate: candidate[1]) if candidates else None
