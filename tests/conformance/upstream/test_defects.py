"""Every defect on record is data that can be checked: named, dated, in some cell, seen by checks that exist."""

import re

import pytest
from packaging.specifiers import SpecifierSet

from conformance.checks import CHECKS
from conformance.models import MODELS
from conformance.upstream.defects import DEFECTS
from shim.patches import catalogue
from shim.versions import CELLS

EACH = pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)


def packages(cell):
    return {"torch": f"{cell.torch}+cpu", "peft": cell.peft, "transformers": cell.transformers}


def test_no_two_defects_have_the_same_name():
    names = [defect.name for defect in DEFECTS]
    assert sorted(set(names)) == sorted(names)


@EACH
def test_a_defect_says_in_one_line_what_is_wrong_and_which_pull_request_it_hangs_on(defect):
    assert re.fullmatch(r"[a-z0-9_]+", defect.name)
    assert len(defect.said.split()) > 5
    assert "\n" not in defect.said
    assert re.search(r"(pytorch|huggingface)/(pytorch|peft|transformers)#\d+", defect.upstream)


@EACH
def test_a_defect_is_in_some_cell_of_the_matrix(defect):
    assert all(SpecifierSet(versions) for versions in defect.affected.values())
    assert [name for name, cell in CELLS.items() if defect.is_in(packages(cell))]


@EACH
def test_every_sighting_is_of_checks_that_exist_and_covers_a_model_that_one_applies_to(defect):
    for sighting in defect.seen:
        assert set(sighting.checks) <= set(CHECKS)
        pairs = [(model, check) for model in MODELS.values() for check in sighting.checks]
        assert [1 for model, check in pairs if CHECKS[check].applies_to(model) and sighting.covers(model, check)]
        re.compile(sighting.says)


def test_only_failures_in_threads_may_say_anything():
    vague = {check for defect in DEFECTS for sighting in defect.seen if not sighting.says for check in sighting.checks}
    assert vague == {"threads_do_not_affect_each_other"}


@pytest.mark.parametrize("patch", catalogue(), ids=lambda patch: patch.name)
def test_the_check_of_a_patch_is_one_that_a_defect_on_record_fails(patch):
    assert any(patch.check in sighting.checks for defect in DEFECTS for sighting in defect.seen)
    assert set(CHECKS[patch.check].clauses) & set(patch.clauses)
