"""Run one check on one model over drawn scenarios, and say in one verdict what was found."""

from __future__ import annotations

import time
import traceback
import warnings
from typing import TYPE_CHECKING, Any, List, NoReturn, Optional, Tuple, Type

from conformance.case import Case, raised_by
from conformance.checks import CHECKS
from conformance.compare import Declined, Evidence, Inapplicable, Mismatch, Vacuous
from conformance.oracle import NotBatchable
from conformance.scenarios import Scenario, scenarios
from conformance.selection import UnknownChoiceError
from conformance.settings import Settings
from conformance.shim_switch import refusals
from conformance.verdict import Outcome, Verdict

if TYPE_CHECKING:
    from conformance.checks import Check
    from conformance.models import Model


_NO_SCENARIO = "no scenario could be drawn"
_MOST_IN_VAIN = 50  # scenarios that show nothing, where Hypothesis would go on to some 450: each builds a model


class _InVain(Exception):
    """Scenario after scenario shows nothing."""


class _Record:
    """What the examples of one examination showed, the last scenario run among it."""

    def __init__(self) -> None:
        self.evidence = Evidence()
        self.examples = 0
        self.last: Optional[Scenario] = None
        self.vacuous = ""
        self.in_vain = 0
        self.declined = ""
        self.inapplicable = ""
        self.raised = False

    def draw_again(self) -> NoReturn:
        """Have another scenario drawn in the place of this one, if not too often in vain."""
        import hypothesis

        self.in_vain += 1
        if self.in_vain >= _MOST_IN_VAIN:
            raise _InVain
        hypothesis.reject()


def examine(model: Model, check: Check, settings: Settings = Settings()) -> Verdict:
    """Return the verdict of `check` on `model`; raise nothing but KeyboardInterrupt and SystemExit.

    The same settings draw the same scenarios, and so give the same verdict.
    """
    started = time.perf_counter()
    record = _Record()
    outcome, detail = Outcome.SKIPPED, "does not apply to this model"
    if check.applies_to(model):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcome, detail = _run(model, check, settings, record)
    compared = record.evidence.separation != float("inf") or record.evidence.error > 0
    failed = outcome.fails_the_run and record.last is not None
    return Verdict(
        model=model.name,
        check=check.name,
        clauses=check.clauses,
        outcome=outcome,
        detail=detail,
        reproduction=_reproduction(model, check, record.last, settings) if failed else None,
        error=record.evidence.error if compared else None,
        separation=record.evidence.separation if record.evidence.separation != float("inf") else None,
        examples=record.examples,
        seconds=time.perf_counter() - started,
        raised=record.raised,
    )


def reproduce(model: str, check: str, scenario: Scenario, *, with_shim: bool = True, device: str = "auto") -> Evidence:
    """Run one check on one scenario in the open: whatever goes wrong is raised here.

    This is what a failed check's reproduction calls.
    """
    from conformance.models import model_named
    from conformance.shim_switch import shim_installed

    with shim_installed(with_shim):
        return _run_scenario(model_named(model), CHECKS[check], scenario, device)


def _run(model: Model, check: Check, settings: Settings, record: _Record) -> Tuple[Outcome, str]:
    import hypothesis.errors

    try:
        _draw_examples(model, check, settings, record)
    except (KeyboardInterrupt, SystemExit):
        raise
    except (hypothesis.errors.Unsatisfiable, _InVain):
        return _conclusion(record)
    except Mismatch as error:
        return Outcome.FAIL, str(error)
    except (NotBatchable, UnknownChoiceError) as error:  # a device, or a model that one process made and another cannot
        return Outcome.ERROR, str(error) or type(error).__name__
    except Exception as error:
        record.raised = True
        return Outcome.FAIL, f"raised {type(error).__name__}: {error} [{_place(error)}]"
    return _conclusion(record)


def _conclusion(record: _Record) -> Tuple[Outcome, str]:
    """Return what scenarios come to of which none was wrong: refused where one was, else shown where one was."""
    if record.declined:
        return Outcome.REFUSED, record.declined
    if record.examples:
        return Outcome.PASS, ""
    if record.inapplicable and not record.vacuous:
        return Outcome.SKIPPED, record.inapplicable
    return Outcome.VACUOUS, record.vacuous or _NO_SCENARIO


def _draw_examples(model: Model, check: Check, settings: Settings, record: _Record) -> None:
    import hypothesis

    declined: Tuple[Type[BaseException], ...] = (Declined, *refusals())
    phases: List[Any] = [hypothesis.Phase.generate]
    if settings.shrink:
        phases.append(hypothesis.Phase.shrink)

    @hypothesis.settings(
        max_examples=settings.examples,
        phases=phases,
        derandomize=settings.seed is None,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=list(hypothesis.HealthCheck),
        verbosity=hypothesis.Verbosity.quiet,
    )
    @hypothesis.given(scenarios(model, check.draws))
    def example(scenario: Scenario) -> None:
        record.last = scenario
        try:
            evidence = _run_scenario(model, check, scenario, settings.device)
        except Vacuous as error:
            # A comparison without power shows nothing: another scenario is drawn in its place.
            record.vacuous = str(error)
            record.draw_again()
        # Neither ends the examination: what is refused of one batch may be wrong of the next.
        except declined as error:
            record.declined = record.declined or str(error)
            return
        except Inapplicable as error:
            record.inapplicable = record.inapplicable or str(error)
            if record.vacuous and not record.examples:  # or some without power, some without use would end it
                record.draw_again()
            return
        record.evidence += evidence
        record.examples += 1

    if settings.seed is not None:
        hypothesis.seed(settings.seed)(example)
    example()


def _run_scenario(model: Model, check: Check, scenario: Scenario, device: str) -> Evidence:
    import torch

    from conformance.models.precision import default_dtype, without_tf32

    with default_dtype(torch.float64), without_tf32():
        try:
            return check.function(Case(model, scenario, device))
        except NotBatchable:
            refused = raised_by(Case(model, scenario, device).mixed)
            if isinstance(refused, refusals()):
                raise refused from None  # as it is of no use to say of what is refused that it has no reference
            raise


def _place(error: BaseException) -> str:
    """Return where the innermost frame of `error` is, so that a raised error can be found."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return "no traceback"
    frame = frames[-1]
    return f"{'/'.join(frame.filename.split('/')[-3:])}:{frame.lineno}"


def _reproduction(model: Model, check: Check, scenario: Optional[Scenario], settings: Settings) -> str:
    extra = "" if settings.with_shim else ", with_shim=False"
    if settings.device != "auto":
        extra += f", device={settings.device!r}"
    return (
        "from conformance import reproduce\n"
        "from conformance.scenarios import Adapter, Scenario\n"
        f"reproduce({model.name!r}, {check.name!r}, {scenario!r}{extra})"
    )
