"""What `--conformance-models all` collects: one test for each class of the installed transformers;
and `--conformance-models methods`: one for each method of the installed PEFT.

Each is judged in a child process of its own, so that one that crashes or hangs is one verdict and not the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable

import pytest

from conformance import options, recorder
from conformance.expected import as_expected
from conformance.report.environment import device_name
from conformance.verdict import Outcome

if TYPE_CHECKING:
    from conformance.settings import Settings
    from conformance.sweep.workshop import Swept

pytestmark = pytest.mark.filterwarnings("ignore")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give the test its model types, in one order on every worker."""
    entries = options.entries(metafunc.config)
    ids = [entry.name for entry in entries]
    metafunc.parametrize("entry", entries or [options.nothing(1)], ids=ids or None)


@pytest.fixture(scope="module")
def ready() -> None:
    """Import once what every child process needs, and keep to one thread: a child inherits both."""
    from conformance.sweep.workshop import prepare

    prepare()


def test_model_type_is_exact_or_refused(
    entry: Swept,
    settings: Settings,
    ready: None,
    record_property: Callable[[str, object], None],
    pytestconfig: pytest.Config,
) -> None:
    """Hand the verdicts of all stages to the report; fail where one of them fails the run."""
    from conformance.sweep.workshop import judged

    known = options.expected(pytestconfig)
    verdicts = [as_expected(verdict, known) for verdict in judged(entry, settings)]
    recorder.carry(record_property, pytestconfig, verdicts, device_name("cpu") or "cpu")
    failed = [verdict for verdict in verdicts if verdict.outcome.fails_the_run]
    if failed:
        pytest.fail("\n\n".join(map(recorder.explained, failed)), pytrace=False)
    expected = [verdict for verdict in verdicts if verdict.outcome is Outcome.EXPECTED]
    if expected:
        pytest.xfail("; ".join(f"{verdict.expected}: {verdict.detail}" for verdict in expected))
    if not any(verdict.outcome is Outcome.PASS for verdict in verdicts):
        pytest.skip(f"{verdicts[0].finding}: {verdicts[0].detail}")
