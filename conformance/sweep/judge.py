"""Judge one model under one stage of adapters: mixed calls against the rows alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Optional, Sequence

from conformance.compare import Evidence, Mismatch, Tier, Vacuous, compare_row, relative_error
from conformance.models.every.batch import Batch
from conformance.models.every.senses import unfed
from conformance.outputs import Tensors
from conformance.scenarios import BASE
from conformance.shim_switch import allow_mixed_outputs, declines, explained, takes_owners
from conformance.sweep.adapted import ADAPTERS, CannotAdapt, with_adapters
from conformance.sweep.finding import Finding, Judgement
from conformance.sweep.reference import Reference, run
from conformance.sweep.variants import Drawing

FLOAT64 = Tier()
FLOAT32 = Tier(1e-5)
"""For models that do not run in float64: a hundred rounding steps; adapters must then differ by a hundredth."""

_UNLIKE = Finding.NOT_BATCHABLE.value

SPLIT = "split"
ROUTES = {"plain": Finding.ONE_PASS, "one pass": Finding.ONE_PASS, "live": Finding.ONE_PASS, SPLIT: Finding.SPLIT}
_WORST_LAST = ("", *ROUTES, "refuse", "unknown")


@dataclass(frozen=True)
class Way:
    """How a model is called in a stage.

    run: makes the call, of (model, batch, **what a mixed call is given beyond), and returns its outputs.
    route: returns the route that a mixed call takes, of (model, batch, names, **what it is given beyond).
    given: makes the call's batch, of (the batch of a forward, the model's configuration).
    """

    run: Callable[..., Tensors]
    route: Callable[..., str]
    given: Callable[[Batch, Any], Batch] = lambda batch, config: batch


@dataclass
class Tally:
    """What the calls of a stage have shown so far."""

    tier: Tier
    way: Way
    evidence: Evidence = field(default_factory=Evidence)
    calls: int = 0
    route: str = ""
    owners: bool = False
    """Whether the calls say whose the rows of packed inputs are."""
    allowed: bool = False
    """Whether the outputs without rows of their own are allowed to be made of several samples."""
    notes: List[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Remember something to be said with the verdict, once."""
        if text not in self.notes:
            self.notes.append(text)

    def took(self, route: str) -> None:
        """Remember the route of a call: the worst of them is the model's."""
        self.route = max(self.route, route, key=_WORST_LAST.index)

    def judgement(self, finding: Finding, detail: str = "") -> Judgement:
        """Return the judgement with everything that was measured."""
        compared = self.evidence.separation != float("inf")
        said = "; ".join([*([detail] if detail else []), *self.notes])
        return Judgement(
            finding,
            said,
            self.route or "unknown",
            self.evidence.error if compared else None,
            self.evidence.separation if compared else None,
            self.calls,
        )


def forward_route(adapted: Any, batch: Batch, names: List[str], **more: Any) -> str:
    """Return the route of a mixed forward, as the shim explains it."""
    return explained(adapted, batch.arguments, names, **more)


FORWARD = Way(run, forward_route)


def judge(
    model: Any, modules: Sequence[str], parameters: Sequence[str], batches: Any, tier: Tier, way: Way = FORWARD
) -> Judgement:
    """Return what mixed calls on `model` show, under adapters on these modules and parameters.

    Args:
        batches: yields (drawing, batch); a batch is drawn only when the one before has been judged.

    Raises:
        CannotAdapt: PEFT cannot run the model under a single one of these adapters.
    """
    return judge_adapted(with_adapters(model, modules, parameters), batches, tier, way)


def judge_adapted(adapted: Any, batches: Any, tier: Tier, way: Way = FORWARD) -> Judgement:
    """Return what mixed calls on `adapted` show, a PEFT model with the two adapters; see `judge`."""
    allow_mixed_outputs([])
    tally = Tally(tier, way)
    for drawing, batch in batches:
        if batch is None:
            tally.note(f"not shown: {drawing.name}, which the model does not take")
            continue
        for sense in unfed(adapted.get_base_model(), batch):
            tally.note(f"not fed: {sense}")
        try:
            _judge_batch(adapted, drawing, batch, tally)
        except Mismatch as error:
            return tally.judgement(Finding.WRONG, f"{drawing.name}: {error}")
        except Vacuous as error:
            return tally.judgement(Finding.VACUOUS, f"{drawing.name}: {error}")
        except declines() as error:
            return tally.judgement(Finding.REFUSED, f"{drawing.name}: {error}")
        except _NotBatchable as error:
            return tally.judgement(Finding.NOT_BATCHABLE, f"{drawing.name}: {error}")
        except _Raised as error:
            return tally.judgement(Finding.CRASHED, f"{drawing.name}: the mixed call raised {error}")
    return tally.judgement(ROUTES.get(tally.route, Finding.EXACT))


class _NotBatchable(Exception):
    """No output of the model has rows of its own."""


class _Raised(Exception):
    """A mixed call raised something that is no refusal."""


def _judge_batch(adapted: Any, drawing: Drawing, batch: Batch, tally: Tally) -> None:
    """Make the calls of one drawing and compare every row of each."""
    reference = _reference(adapted, batch, tally)
    if not reference.places:
        raise _NotBatchable(f"no output has rows of its own: {', '.join(reference.rowless) or 'there is none'}")
    if reference.rowless:
        tally.note(f"not compared, since it has no rows of its own: {', '.join(reference.rowless)}")
    if not reference.batchable and not any(note.startswith(_UNLIKE) for note in tally.notes):
        worst = max(reference.unlike, key=lambda path: reference.unlike[path])
        tally.note(
            f"{_UNLIKE}: without adapters a row of {worst!r} in the batch differs by "
            f"{reference.unlike[worst]:.0e} from that row alone, so the whole batch is run, and a row may equal either"
        )
    for samples in drawing.calls if reference.batchable else (tuple(range(batch.samples)),):
        names = [drawing.names[sample] for sample in samples]
        called = batch.of(samples)
        outputs = _mixed(adapted, called, names, tally, reference.rowless)
        tally.calls += 1
        for position, sample in enumerate(samples):
            where = f"row {position} under {names[position]!r} of {names}"
            observed = reference.rows_of(outputs, samples, position)
            tally.evidence += _compare(reference, observed, sample, names[position], tally, where)


def _route(adapted: Any, batch: Batch, names: List[str], tally: Tally, **more: Any) -> str:
    try:
        return tally.way.route(adapted, batch, names, **more)
    except declines():
        return "refuse"
    except Exception as error:
        tally.note(f"asking for the route raises {type(error).__name__}: {error}")
        return "unknown"


def _reference(adapted: Any, batch: Batch, tally: Tally) -> Reference:
    try:
        reference = Reference(adapted, batch, tally.tier.tolerance, tally.way.run)
        for adapter in ADAPTERS:
            reference.whole(adapter)
        return reference
    except Exception as error:
        raise CannotAdapt(f"PEFT's own run under one adapter raises {type(error).__name__}: {error}") from error


def _mixed(adapted: Any, batch: Batch, names: List[str], tally: Tally, rowless: Sequence[str]) -> Dict[str, Any]:
    """Make the call; where it is declined, say whose the rows of a packed batch are and make it again.

    Where that is no matter and some outputs have no rows, since they compare samples or add them up, allow these.
    """
    more: Dict[str, Any] = {"owners": batch.owners} if tally.owners else {}
    # To be told of a split takes as long as the split; of another nothing more is learnt, and a refusal is met anyway.
    route = tally.route if tally.route == SPLIT else _route(adapted, batch, names, tally, **more)
    try:
        outputs = tally.way.run(adapted, batch, adapter_names=names, **more)
    except declines():
        if not tally.owners and batch.owners and takes_owners():
            tally.owners = True
            tally.note("told whose the rows of its packed inputs are")
        elif not tally.allowed and rowless and allow_mixed_outputs(rowless):
            tally.allowed = True
            tally.note("allowed to make these of several samples")
        else:
            raise
        return _mixed(adapted, batch, names, tally, rowless)
    except Exception as error:
        raise _Raised(f"{type(error).__name__}: {error}") from error
    tally.took(route)
    return outputs


def _compare(reference: Reference, observed: Any, sample: int, name: str, tally: Tally, where: str) -> Evidence:
    """Compare a row with itself alone; where a batch does not give rows alone, with the whole batch as well."""
    others = {other: _row(reference, other, sample) for other in (*ADAPTERS, BASE) if other != name}
    alone = {path: tensor for path, tensor in reference.alone(name, sample).items() if path in reference.places}
    if reference.batchable:
        return compare_row(observed, alone, others, tally.tier, where)
    whole = reference.rows_of(reference.whole(name), range(reference.batch.samples), sample)
    expected = {path: _nearer(observed.get(path), alone[path], whole.get(path)) for path in alone}
    return compare_row(observed, expected, others, tally.tier, where)


def _row(reference: Reference, adapter: str, sample: int) -> Dict[str, Any]:
    return {path: t for path, t in reference.alone(adapter, sample).items() if path in reference.places}


def _nearer(observed: Optional[Any], alone: Any, whole: Optional[Any]) -> Any:
    if observed is None or whole is None:
        return alone
    return whole if relative_error(observed, whole) < relative_error(observed, alone) else alone
