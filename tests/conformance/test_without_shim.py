"""Without the shim the suite reports exactly what is broken upstream in the installed versions, and nothing else.

Threads (S3) are left out here: whether they collide in one run is chance.
"""

import pytest

from conformance.checks import CHECKS
from conformance.examination import examine
from conformance.models import MODELS
from conformance.report.environment import versions
from conformance.report.expected import render
from conformance.report.jsonl import Report
from conformance.settings import Settings
from conformance.upstream.expectation import expectation

SHOWN = (
    "integers",
    "bert",
    "roberta-sequence-classification",
    "llama",
    "t5",
    "xlnet",
    "mobilevit",
    "swin",
    "clip",
)
# More scenarios than one or two, since a broken version may be right by luck: which are drawn depends on the constants
# in the modules that happen to be imported (hypothesis collects them).
SETTINGS = Settings(with_shim=False, examples=6)


@pytest.mark.parametrize("name", sorted(set(CHECKS) - {"threads_do_not_affect_each_other"}))
def test_a_check_fails_on_upstream_exactly_where_upstream_is_broken(name):
    verdicts = tuple(examine(MODELS[model], CHECKS[name], SETTINGS) for model in SHOWN)
    found = expectation(Report({"environment": {"packages": versions()}}, verdicts, {}))
    assert found.met, render(found)
    assert all(verdict.reproduction for verdict, _ in found.known)


def test_the_reproduction_of_a_failure_fails_when_pasted():
    verdict = examine(MODELS["mobilevit"], CHECKS["each_row_equals_its_own_run"], SETTINGS)
    with pytest.raises((ValueError, TypeError), match=r"adapter_names|with_kwargs"):
        exec(verdict.reproduction, {})
