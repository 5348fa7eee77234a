"""Models whose adapters lie side by side in one memory, which mixed batches read in place (C2, R4)."""

from __future__ import annotations

from conformance.case import Case
from conformance.checks.check import check
from conformance.compare import Evidence, Inapplicable, Mismatch
from conformance.scenarios import Draws
from conformance.shim_switch import is_installed, packed


@check("C2", "R4", draws=Draws(adapters=(4, 4), rows=(5, 6), saved="none", crowded=True))
def packing_moves_weights_and_changes_no_row(case: Case) -> Evidence:
    """Is every row its own on a packed model, though its neighbour in memory then holds inf and nan?"""
    if not is_installed():
        raise Inapplicable("upstream packs nothing")
    if not packed(case.peft_model):
        raise Inapplicable("no layer has two adapters of one rank that are plain weights")
    if packed(case.peft_model):
        raise Mismatch("a model that was packed should have nothing left to move, but has")
    evidence = case.expect_rows(case.mixed(), case.rows)
    poisoned = case.scenario.names[-1]
    case.poison(poisoned)
    clean = [row for row, name in enumerate(case.rows) if name != poisoned]
    return evidence + case.expect_rows(case.mixed(), case.rows, clean)
