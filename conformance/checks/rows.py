"""Chapter Rows: every row is its own adapter's, whatever stands beside it (R1-R8)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, List

from conformance.case import Case, raised_by, reordered
from conformance.checks.check import check, has_rows
from conformance.compare import Evidence, Inapplicable, Mismatch, compare_row, relative_error
from conformance.oracle import Oracle
from conformance.outputs import tensors_of
from conformance.scenarios import BASE, Draws
from conformance.shim_switch import refusals

if TYPE_CHECKING:
    from conformance.models import Model


def _tells_its_states(model: Model) -> bool:
    return has_rows(model) and "integer" not in model.tags


@check("R1", "R7", draws=Draws(adapters=(1, 3), rows=(2, 4), saved="none"))
def each_row_equals_its_own_run(case: Case) -> Evidence:
    """Is every row of a mixed batch that row alone under its adapter?"""
    return case.expect_rows(case.mixed(), case.rows)


@check("R1", "R7", draws=Draws(adapters=(1, 2), rows=(2, 3), saved="none"), applies=_tells_its_states)
def every_layers_states_are_the_rows_own(case: Case) -> Evidence:
    """Are the states of all layers the rows' own, and no more of them, where the model's first call asks for them?"""
    case.inputs = {**case.inputs, "output_hidden_states": True}
    case.oracle = Oracle(case.model, case.scenario, case.inputs, case.device)
    error = raised_by(lambda: case.oracle.run(BASE))
    if error is not None:
        raise Inapplicable(f"the model alone takes no output_hidden_states: {type(error).__name__}: {error}")
    output = case.mixed()
    wanted, found = set(case.oracle.run(BASE)), set(tensors_of(output))
    if wanted != found:
        raise Mismatch(f"the outputs are {sorted(found)}, but should be {sorted(wanted)}")
    return case.expect_rows(output, case.rows)


@check("R2", draws=Draws(adapters=(2, 3), rows=(3, 4), saved="none"))
def reordering_rows_reorders_outputs(case: Case) -> Evidence:
    """Does reversing the rows, and moving the first one to the end, do the same to the outputs, and nothing else?"""
    rows = list(range(len(case.rows)))
    evidence = Evidence()
    for order in (rows[::-1], rows[1:] + rows[:1]):
        evidence += _expect_in_order(case, order)
    return evidence + case.expect_rows(case.mixed(), case.rows)


def _expect_in_order(case: Case, order: List[int]) -> Evidence:
    """Compare the outputs of the rows in this `order` with each row's own."""
    output = case.mixed([case.rows[row] for row in order], reordered(case.inputs, order))
    evidence = Evidence()
    for position, row in enumerate(order):
        observed = case.oracle.rows_of(output, position)
        for path, want in case.oracle.expected(case.rows[row], row).items():
            error = relative_error(observed[path], want)
            if error > case.tier.tolerance:
                raise Mismatch(f"output {path!r} of row {row} differs by {error:.1e} at position {position}")
            evidence += Evidence(error)
    return evidence


@check("R3", draws=Draws(adapters=(1, 2), rows=(2, 3), saved="none"))
def base_rows_equal_the_base_model(case: Case) -> Evidence:
    """Is a `__base__` row what the model gave before any adapter was put on it?"""
    names = [BASE, *case.rows[1:-1], case.scenario.names[0]]
    rows = [row for row, name in enumerate(names) if name == BASE]
    return case.expect_rows(case.mixed(names), names, rows)


@check("R4", draws=Draws(adapters=(2, 3), rows=(2, 4), saved="none"))
def other_adapters_weights_do_not_reach_a_row(case: Case) -> Evidence:
    """Does a row stay as it is when another adapter in the batch holds inf and nan?"""
    poisoned = case.scenario.names[-1]
    names = [case.scenario.names[0], poisoned, *case.rows[2:]]
    clean = [row for row, name in enumerate(names) if name != poisoned]
    case.poison(poisoned)
    return case.expect_rows(case.mixed(names), names, clean)


@check("R5", draws=Draws(adapters=(2, 3), rows=(3, 4), saved="none"))
def one_sample_under_several_adapters_gives_each_answer(case: Case) -> Evidence:
    """Does one sample, repeated under several adapters, give each adapter's own answer?"""
    names = [*case.scenario.names, BASE, *case.rows][: len(case.rows)]
    output = case.mixed(names, reordered(case.inputs, [0] * len(names)))
    evidence = Evidence()
    for row, name in enumerate(names):
        observed = case.oracle.rows_of(output, row)
        want = case.oracle.expected(name, 0)
        others = {other: case.oracle.expected(other, 0) for other in names if other != name}
        evidence += compare_row(observed, want, others, case.tier, f"copy {row} of sample 0 under {name!r}")
    return evidence


@check("R6", draws=Draws(adapters=(2, 2), rows=(1, 3), mixed=False, saved="none"))
def a_batch_of_one_or_under_one_adapter_is_right(case: Case) -> Evidence:
    """Is a batch with a single name, a batch of one included, that adapter's own run, whichever adapter is active?"""
    names, evidence = [case.rows[0]] * len(case.rows), Evidence()
    for active in case.scenario.names:
        case.peft_model.set_adapter(active)
        evidence += case.expect_rows(case.mixed(names), names)
    return evidence


@check("R6", draws=Draws(adapters=(4, 4), rows=(5, 6), saved="none", crowded=True))
def many_adapters_of_any_rank_and_target_are_right(case: Case) -> Evidence:
    """Do several adapters of different ranks and targets share a batch?"""
    return case.expect_rows(case.mixed(), case.rows)


@check("R1", "R7", draws=Draws(adapters=(1, 2), rows=(3, 4), saved="none"))
def a_row_is_right_after_calls_of_other_sizes(case: Case) -> Evidence:
    """Is a row right on a model that has run other lengths, other numbers of samples and other names before?"""
    for length in (*case.model.lengths, case.scenario.length):
        for count in (len(case.rows), 2):
            names = [*reversed(case.rows)][:count]
            case.mixed(names, case.inputs_like(names, length))
    return case.expect_rows(case.mixed(), case.rows)


@check("R1", "S4", draws=Draws(adapters=(1, 2), rows=(2, 3), saved="none"))
def a_row_is_right_after_its_adapters_weights_changed(case: Case) -> Evidence:
    """Is a row right once its adapter's weights have changed in place, as by an optimizer's step between two calls?"""
    changed = Case(case.model, replace(case.scenario, seed=case.scenario.seed + 1), case.device)
    before = Oracle(case.model, case.scenario, changed.inputs, case.device)
    weights = dict(changed.peft_model.named_parameters())
    case.mixed()
    for path, parameter in case.peft_model.named_parameters():
        parameter.data.copy_(weights[path].data)
    output, evidence = case.mixed(inputs=changed.inputs), Evidence()
    for row, name in enumerate(case.rows):
        stale = {f"{name} as it was": before.expected(name, row)} if name != BASE else {}
        want, where = changed.oracle.expected(name, row), f"row {row} under {name!r} after its weights changed"
        evidence += compare_row(changed.oracle.rows_of(output, row), want, stale, case.tier, where)
    return evidence + changed.expect_rows(output, case.rows)


def _is_contrastive(model: Model) -> bool:
    return not model.has_rows


@check("R8", draws=Draws(adapters=(1, 2), rows=(2, 3), saved="none"), applies=_is_contrastive)
def outputs_that_mix_samples_are_refused_by_name(case: Case) -> Evidence:
    """Is an output that compares samples with each other refused by name, and never guessed?"""
    mixing = set(case.oracle.mixing_outputs())
    if not mixing:
        raise Mismatch("the oracle sees no output that mixes samples, but should on a contrastive model")
    error = raised_by(case.mixed)
    if error is None:
        return _whole_batch_outputs_agree(case)
    if not isinstance(error, refusals()) or not any(repr(path) in str(error) for path in mixing):
        raise Mismatch(f"raised {type(error).__name__}: {error}, but should refuse one of {sorted(mixing)} by name")
    return Evidence()


def _whole_batch_outputs_agree(case: Case) -> Evidence:
    """Where the call is answered, every output that does have rows must be right."""
    output = case.mixed()
    if not case.oracle.rows_of(output, 0) or not tensors_of(output):
        raise Mismatch("the call returned no output with rows, but should")
    return case.expect_rows(output, case.rows)
