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
from conformance.selection import ALL, OWN, UnknownChoiceError, chosen_checks, inapplicable
from conformance.settings import Settings
from conformance.shim_switch import shim_installed
from conformance.subject import device_named
from conformance.verdict import Outcome, Verdict

if TYPE_CHECKING:
    from conformance.checks import Check
    from conformance.models import Model


@dataclass(frozen=True)
class Examination:
    """A check on a model; a test that calls it passes only where the contract was shown to hold."""

    model: Model
    check: Check
    settings: Settings

    def __call__(self) -> Verdict:
        """Return the verdict; skip the test where the batch was refused or the check does not apply.

        Raises:
            AssertionError: it fails the run; the message is the detail and the reproduction.
        """
        import pytest

        verdict = self.verdict()
        if verdict.outcome.fails_the_run:
            raise AssertionError(_said(verdict))
        if verdict.outcome is not Outcome.PASS:
            pytest.skip(f"{verdict.outcome.value}: {verdict.detail}")
        return verdict

    def verdict(self) -> Verdict:
        """Return the verdict, whatever it is."""
        with shim_installed(self.settings.with_shim):
            return examine(self.model, self.check, self.settings)


def check_model(
    spec: str, *, checks: str = ALL, examples: int = Settings.examples, device: str = "auto", with_shim: bool = True
) -> List[Verdict]:
    """Run the checks on the model that `spec` names (see `made_by`), and return their verdicts.

    Args:
        checks: comma list of checks or clauses; one that does not apply to the model is `SKIPPED`.
        examples: scenarios for each.

    Raises:
        CannotLoad: `spec` is not what `made_by` wants.
        UnknownChoiceError: a check or clause does not exist, or none of them applies to the model; or the device.
        ValueError: `examples` is below 1.
        AssertionError: some check fails, and the message has each with its reproduction; or none passed.
    """
    verdicts = [one.verdict() for one in _examinations(spec, checks, Settings(device, with_shim, examples))]
    failed = [verdict for verdict in verdicts if verdict.outcome.fails_the_run]
    if failed:
        raise AssertionError("\n\n".join(map(_said, failed)))
    if not any(verdict.outcome is Outcome.PASS for verdict in verdicts):
        raise AssertionError(
            "\n\n".join([f"{spec}: nothing was shown, but some check should pass", *map(_said, verdicts)])
        )
    return verdicts


def parametrize(
    spec: str, *, checks: str = ALL, examples: int = Settings.examples, device: str = "auto", with_shim: bool = True
) -> Any:
    """Return the pytest decorator that gives a test the argument `check`, once for each check on the model of `spec`.

    A test calls it; see the module. Where a check is refused or does not apply the test is skipped. Arguments and the
    errors of wrong usage are those of `check_model`.
    """
    import pytest

    examinations = _examinations(spec, checks, Settings(device, with_shim, examples))
    return pytest.mark.parametrize("check", examinations, ids=[one.check.name for one in examinations])


def _examinations(spec: str, checks: str, settings: Settings) -> List[Examination]:
    """Return the checks that apply, and those that do not of what was asked for by a name under which none does."""
    device_named(settings.device)
    model = own_model(OWN + spec)
    chosen = chosen_checks(checks)
    if not any(check.applies_to(model) for check in chosen):
        raise UnknownChoiceError(f"checks={checks!r}: none of them applies to {spec}; leave it out for all that do")
    vain = set(inapplicable(model.name, checks))
    return [
        Examination(model, check, settings)
        for check in chosen
        if check.applies_to(model) or vain.intersection((check.name, *check.clauses))
    ]


def _said(verdict: Verdict) -> str:
    words = {
        Outcome.FAIL: "is broken",
        Outcome.VACUOUS: "was not shown",
        Outcome.ERROR: "could not be examined",
        Outcome.REFUSED: "is refused",
        Outcome.SKIPPED: "does not apply",
    }
    head = f"{verdict.check} ({', '.join(verdict.clauses)}) {words.get(verdict.outcome, verdict.outcome.value)}"
    return "\n".join(filter(None, [f"{head} on {verdict.model}: {verdict.detail}", verdict.reproduction]))
