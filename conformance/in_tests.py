"""The suite in a user's own tests: three lines, one test for each check.

import conformance

@conformance.parametrize("my_package.models:build")
def test_mixed_batches(check):
    check()
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, List

from conformance.examination import examine
from conformance.models.own import own_model
from conformance.selection import ALL, OWN, chosen_checks
from conformance.settings import Settings
from conformance.shim_switch import shim_installed
from conformance.verdict import Outcome, Verdict

if TYPE_CHECKING:
    from conformance.checks import Check
    from conformance.models import Model


@dataclass(frozen=True)
class Examination:
    """A check on a model; calling it raises `AssertionError` where the contract is broken."""

    model: Model
    check: Check
    settings: Settings

    def __call__(self) -> Verdict:
        """Return the verdict.

        Raises:
            AssertionError: it fails the run; the message is the detail and the reproduction.
        """
        with shim_installed(self.settings.with_shim):
            verdict = examine(self.model, self.check, self.settings)
        if verdict.outcome.fails_the_run:
            raise AssertionError(_said(verdict))
        return verdict


def check_model(
    spec: str, *, checks: str = ALL, examples: int = Settings.examples, device: str = "auto", with_shim: bool = True
) -> List[Verdict]:
    """Run the checks on the model that `spec` names (see `made_by`), and return their verdicts.

    Args:
        checks: comma list of checks or clauses. examples: scenarios for each.

    Raises:
        CannotLoad: `spec` is not what `made_by` wants.
        AssertionError: some check fails; the message has each with its reproduction.
    """
    failed, verdicts = [], []
    for examination in _examinations(spec, checks, Settings(device, with_shim, examples)):
        try:
            verdicts.append(examination())
        except AssertionError as error:
            failed.append(str(error))
    if failed:
        raise AssertionError("\n\n".join(failed))
    return verdicts


def parametrize(
    spec: str, *, checks: str = ALL, examples: int = Settings.examples, device: str = "auto", with_shim: bool = True
) -> Any:
    """Return the pytest decorator that gives a test the argument `check`, once for each check on the model of `spec`.

    A test calls it; see the module. Arguments and errors are those of `check_model`.
    """
    import pytest

    examinations = _examinations(spec, checks, Settings(device, with_shim, examples))
    return pytest.mark.parametrize("check", examinations, ids=[one.check.name for one in examinations])


def _examinations(spec: str, checks: str, settings: Settings) -> List[Examination]:
    model = own_model(OWN + spec)
    return [Examination(model, check, settings) for check in chosen_checks(checks) if check.applies_to(model)]


def _said(verdict: Verdict) -> str:
    word = {Outcome.FAIL: "is broken", Outcome.VACUOUS: "was not shown", Outcome.ERROR: "could not be examined"}
    head = f"{verdict.check} ({', '.join(verdict.clauses)}) {word.get(verdict.outcome, verdict.outcome.value)}"
    return "\n".join(filter(None, [f"{head} on {verdict.model}: {verdict.detail}", verdict.reproduction]))
