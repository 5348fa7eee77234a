"""Chapter Generation: the tokens of a row are the row's own (G1, G3, G4, G5, E1, G8)."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Optional, Sequence, Set

from conformance.case import Case
from conformance.checks.check import check
from conformance.compare import Evidence, Inapplicable, Mismatch, Vacuous
from conformance.scenarios import BASE, Draws
from conformance.shim_switch import is_installed

if TYPE_CHECKING:
    from conformance.models import Model

_ROWS = Draws(adapters=(2, 3), rows=(2, 4), saved="none")
_TOKENS = 6
_SAMPLED = {"do_sample": True, "top_k": 0}


def generates(model: Model) -> bool:
    """Whether the model has a `generate`."""
    return "generates" in model.tags


@check("G1", "G5", draws=_ROWS, applies=generates)
def greedy_tokens_equal_the_rows_own(case: Case) -> Evidence:
    """Are the tokens of greedy search those of each row's own run?"""
    return expect_own_tokens(case, {})


@check("G3", "G5", draws=_ROWS, applies=generates)
def beams_by_keyword_are_the_rows_own(case: Case) -> Evidence:
    """Are beams right when `num_beams` is a keyword?"""
    return expect_own_tokens(case, {"num_beams": 3})


@check("G3", draws=_ROWS, applies=generates, quick=False)
def beams_by_generation_config_are_the_rows_own(case: Case) -> Evidence:
    """Are beams right when they come in a `generation_config`?"""
    config = copy.deepcopy(case.peft_model.generation_config)
    config.num_beams = 2
    return expect_own_tokens(case, {"generation_config": config})


@check("G3", draws=_ROWS, applies=generates, quick=False)
def beams_of_the_models_own_config_are_the_rows_own(case: Case) -> Evidence:
    """Are beams right when they are set in the model's own generation config?"""
    for name in (*case.scenario.names, BASE):
        _generator(case.oracle.model_of(name)).generation_config.num_beams = 2
    _generator(case.peft_model).generation_config.num_beams = 2
    return expect_own_tokens(case, {})


@check("G4", draws=_ROWS, applies=generates)
def several_returned_sequences_are_the_rows_own(case: Case) -> Evidence:
    """Are all returned beams of a row its own?"""
    return expect_own_tokens(case, {"num_beams": 3, "num_return_sequences": 2}, per_row=2)


@check("G2", draws=_ROWS, applies=generates)
def sampled_tokens_are_the_rows_own_whatever_the_others_are(case: Case) -> Evidence:
    """Does a row sample what it does alone from the same seed, whatever rows are beside it?"""
    if not is_installed():
        raise Inapplicable("upstream draws the tokens of all rows from one generator, and takes no other")
    rows = list(range(len(case.rows)))
    seeds = [case.scenario.seed + row for row in rows]
    own = {name: [_sampled_alone(case, name, row, seeds[row]) for row in rows] for name in {*case.rows, BASE}}
    evidence = Evidence()
    for some in (rows, rows[::-1]):
        inputs = {name: value[some] for name, value in case.inputs.items()}
        settings = {**_SAMPLED, "generators": [seeds[row] for row in some]}
        names = [case.rows[row] for row in some]
        mixed = tokens(case, case.peft_model, settings, names, inputs)
        those = {name: [alone[row] for row in some] for name, alone in own.items()}
        evidence += expect_tokens(mixed, those, names, settings)
    return evidence


def _sampled_alone(case: Case, name: str, row: int, seed: int) -> List[int]:
    import torch

    model = case.oracle.model_of(name)
    inputs = {path: value[row : row + 1] for path, value in case.inputs.items()}
    torch.manual_seed(seed)
    return tokens(case, model, _SAMPLED, None, inputs)[0]


@check("E1", "G8", draws=_ROWS, applies=generates, quick=False)
def a_generate_that_compiles_itself_gives_the_rows_own_tokens(case: Case) -> Evidence:
    """Are tokens right where generate decodes by torch.compile, as with a static cache on CUDA?"""
    settings = {"cache_implementation": "static"}
    config = _compile_config()
    try:
        own = _own_tokens(case, settings)
    except ValueError as error:
        raise Inapplicable(f"the model has no static cache: {error}") from error
    with _compiling_everywhere(config) as compiled:
        # A graph that an earlier call left must not answer for other names, nor for a call without any.
        for names in (case.rows[::-1], None, case.rows):
            mixed = tokens(case, case.peft_model, {**settings, **compiled}, names)
    return expect_tokens(mixed, own, case.rows, settings)


def expect_own_tokens(case: Case, settings: Dict[str, Any], per_row: int = 1) -> Evidence:
    """Compare a mixed generate with one generate of the whole batch for each adapter.

    Raises:
        Mismatch: a row's tokens are not its own.
        Vacuous: no row's tokens depend on its adapter.
        Inapplicable: they are not its own in a batch under its adapter alone, either.
    """
    mixed, own = tokens(case, case.peft_model, settings, case.rows), _own_tokens(case, settings)
    try:
        return expect_tokens(mixed, own, case.rows, settings, per_row)
    except Mismatch:
        _check_batchable(case, own, settings, per_row)
        raise


def _check_batchable(case: Case, own: Dict[str, List[List[int]]], settings: Dict[str, Any], per_row: int) -> None:
    """Check that under one adapter each row generates in the batch what it does by itself.

    Raises:
        Inapplicable: it does not. From transformers 4.50 (huggingface/transformers#35802) to 4.53, until
            huggingface/transformers#38778, a beam search goes on past a row's end while another row is not done.
    """
    for row, name in enumerate(case.rows):
        inputs, chosen = (
            {key: _of_row(value, row, case) for key, value in given.items()} for given in (case.inputs, settings)
        )
        alone = tokens(case, case.oracle.model_of(name), chosen, None, inputs)
        together = own[name][row * per_row : (row + 1) * per_row]
        if alone != together:
            raise Inapplicable(f"row {row} under {name!r} generates {alone}, but in a batch under it {together}")


def _of_row(value: Any, row: int, case: Case) -> Any:
    """Return one row of what has all of them."""
    has_rows = hasattr(value, "shape") and value.shape[:1] == (len(case.rows),)
    return value[row : row + 1] if has_rows else value


def _own_tokens(case: Case, settings: Dict[str, Any]) -> Dict[str, List[List[int]]]:
    """Return what the whole batch generates under each adapter of its rows, and under none."""
    return {name: tokens(case, case.oracle.model_of(name), settings) for name in {*case.rows, BASE}}


def expect_tokens(
    mixed: List[List[int]],
    own: Dict[str, List[List[int]]],
    names: Sequence[str],
    settings: Dict[str, Any],
    per_row: int = 1,
) -> Evidence:
    """Compare sequences, `per_row` for each row, with what `own` has for the row under each adapter.

    Raises:
        Mismatch, Vacuous: see `expect_own_tokens`.
    """
    if len(mixed) != per_row * len(names):
        raise Mismatch(f"generate returned {len(mixed)} sequences, but should {per_row} for each of {len(names)} rows")
    tell = False
    for position, observed in enumerate(mixed):
        name = names[position // per_row]
        expected = own[name][position]
        tell = tell or any(own[other][position] != expected for other in own)
        if observed != expected:
            raise Mismatch(
                f"row {position // per_row} under {name!r} generated {observed}, but should {expected} [{settings}]"
            )
    if not tell:
        raise Vacuous(f"every adapter generates the same tokens, so nothing was shown [{settings}]")
    return Evidence()


def _compile_config() -> Any:
    """Return the class of the settings by which generate compiles.

    Raises:
        Inapplicable: the generate of this transformers does not compile, or on CUDA alone.
    """
    import transformers

    config = getattr(transformers, "CompileConfig", None)
    # There in 4.51, absent in 4.47; made for tests like this one.
    if not hasattr(config, "_compile_all_devices"):
        raise Inapplicable("generate does not compile on the CPU here")
    return config


@contextmanager
def _compiling_everywhere(config: Any) -> Iterator[Dict[str, Any]]:
    """Let generate compile on every device inside the block; give the keywords that keep it from taking long."""
    import torch

    before = config._compile_all_devices
    config._compile_all_devices = True
    try:
        yield {"compile_config": config(backend="eager", mode="default", fullgraph=False)}
    finally:
        config._compile_all_devices = before
        torch._dynamo.reset()


def tokens(
    case: Case,
    model: Any,
    settings: Dict[str, Any],
    names: Optional[Sequence[str]] = None,
    inputs: Optional[Dict[str, Any]] = None,
) -> List[List[int]]:
    """Generate, and return each sequence without the padding that only the batch's longest row decides."""
    import torch

    given = {k: value for k, value in (inputs or case.inputs).items() if not k.startswith("decoder_")}
    chosen = {} if names is None else {"adapter_names": list(names)}
    with torch.no_grad():
        output = model.generate(**given, **{"max_new_tokens": _TOKENS, "do_sample": False, **settings, **chosen})
    return [without_tail(row, model) for row in output.tolist()]


def without_tail(row: List[int], model: Any) -> List[int]:
    """Return the row without its last end tokens and padding, whose number other rows decide."""
    config = _generator(model).generation_config
    ends: Set[Any] = {config.pad_token_id, *_as_list(config.eos_token_id)}
    end = len(row)
    while end > 0 and row[end - 1] in ends:
        end -= 1
    return row[:end]


def _as_list(value: Any) -> List[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _generator(model: Any) -> Any:
    """Return the model whose generation config `generate` reads."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
