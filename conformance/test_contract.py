"""What `pytest --pyargs conformance` collects: one test for each check on each model that it applies to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable

import pytest

from conformance import options, plugin, recorder
from conformance.expected import as_expected
from conformance.report.environment import device_name
from conformance.verdict import Outcome, Verdict

if TYPE_CHECKING:
    from conformance.checks import Check
    from conformance.models import Model
    from conformance.settings import Settings

# A verdict is about answers: upstream's warnings are not ours to judge, whatever a user's `-W error` says.
pytestmark = pytest.mark.filterwarnings("ignore")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give the test below its pairs, in one order on every worker; nothing is built or drawn here."""
    manager = metafunc.config.pluginmanager
    if not manager.is_registered(plugin):
        # A checkout that is not installed has no entry point: no options, but the table all the same.
        manager.register(plugin, "conformance.plugin")
    pairs = options.pairs(metafunc.config)
    ids = [f"{model.name}-{check.name}" for model, check in pairs]
    metafunc.parametrize(("model", "check"), pairs or [options.nothing(2)], ids=ids or None)


def test_model_keeps_contract(
    model: Model,
    check: Check,
    settings: Settings,
    record_property: Callable[[str, object], None],
    pytestconfig: pytest.Config,
) -> None:
    """Hand the verdict to the report, and put its outcome in pytest's words."""
    from conformance.examination import examine

    verdict = as_expected(examine(model, check, settings), options.expected(pytestconfig))
    recorder.carry(record_property, pytestconfig, [verdict], device_name(settings.device) or settings.device)
    conclude(verdict)


def conclude(verdict: Verdict) -> None:
    """Return for a pass, skip for a refusal, xfail for an expected failure, fail for what fails the run."""
    if verdict.outcome.fails_the_run:
        pytest.fail(recorder.explained(verdict), pytrace=False)
    if verdict.outcome is Outcome.EXPECTED:
        pytest.xfail(f"{verdict.expected}: {verdict.detail}")
    if verdict.outcome is not Outcome.PASS:
        pytest.skip(f"{verdict.outcome.value}: {verdict.detail}")
