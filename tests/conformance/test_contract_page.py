"""The page of the contract: every clause with its checks, and as committed, what the registry says now."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from conformance.__main__ import main
from conformance.checks import CHECKS
from conformance.contract import CONTRACT
from conformance.report import contract
from conformance.selection import clause_order

ROOT = Path(__file__).parents[2]
CLAUSES = [clause for chapter in CONTRACT for clause in chapter.clauses]


def unwritten():
    """Return the clauses that checks name and the contract does not have."""
    return {clause for check in CHECKS.values() for clause in check.clauses} - {clause.id for clause in CLAUSES}


def test_the_committed_page_is_current(tmp_path):
    assert main(["list", "--contract-markdown", str(tmp_path / "contract.md")]) == 0
    made = (tmp_path / "contract.md").read_text("utf-8")
    assert (ROOT / "docs/contract.md").read_text("utf-8") == made, (
        "docs/contract.md is not what the checks say. Run: "
        "python -m conformance list --contract-markdown docs/contract.md"
    )


def test_a_check_that_is_added_changes_the_page(monkeypatch):
    before = contract.render()
    known = CHECKS["each_row_equals_its_own_run"]
    monkeypatch.setitem(CHECKS, "rows_are_counted", known)
    assert contract.render() != before
    assert "- `rows_are_counted`: Is every row" in contract.render()


def test_every_check_proves_clauses_of_the_contract(monkeypatch):
    assert not unwritten()
    known = CHECKS["each_row_equals_its_own_run"]
    monkeypatch.setitem(CHECKS, "unheard_of", replace(known, clauses=("R99",)))
    assert unwritten() == {"R99"}


def test_clauses_stand_once_in_the_order_of_reports():
    ids = [clause.id for clause in CLAUSES]
    assert ids == sorted(set(ids), key=clause_order)


def test_every_check_stands_under_its_clauses():
    parts = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##)", contract.render(), re.DOTALL | re.MULTILINE))
    assert list(parts) == [clause.id for clause in CLAUSES]
    for name, check in CHECKS.items():
        assert {clause for clause, text in parts.items() if f"`{name}`" in text} == set(check.clauses)


@pytest.mark.parametrize("clause", [clause for clause in CLAUSES if clause.also], ids=lambda clause: clause.id)
def test_what_else_shows_a_clause_is_there(clause):
    for path in re.findall(r"`(tests/\S+)`", clause.also):
        assert (ROOT / path).is_file()
