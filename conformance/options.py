"""The suite's options of a pytest session: added, read, and resolved to what is to be run."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, List, Tuple

import pytest

from conformance.expected import read_expected
from conformance.report.jsonl import read
from conformance.selection import Choice
from conformance.settings import Settings
from conformance.shards import Shard

if TYPE_CHECKING:
    from conformance.checks import Check
    from conformance.models import Model
    from conformance.sweep.workshop import Swept
    from conformance.upstream.defect import Defect
    from conformance.verdict import Verdict


NOTHING = "nothing"


def add_options(parser: pytest.Parser) -> None:
    """Add the suite's options; every one begins with `--conformance-`."""
    group = parser.getgroup("conformance", "conformance of mixed-adapter batches (pytest --pyargs conformance)")
    group.addoption(
        "--conformance-device",
        default=Settings.device,
        metavar="DEVICE",
        help="cpu, cuda, cuda:1, ... or auto",
    )
    group.addoption(
        "--conformance-models",
        default=Choice.models,
        metavar="NAMES",
        help="comma list; tiny: models written by hand (default), all: every model type, methods: every method of PEFT",
    )
    group.addoption(
        "--conformance-checks",
        default=Choice.checks,
        metavar="NAMES",
        help="comma list of checks or clauses, such as R1,S1; quick: those that are soon done",
    )
    group.addoption("--conformance-shim", choices=("on", "off"), default="on", help="off: judge upstream as it is")
    group.addoption(
        "--conformance-examples",
        type=int,
        default=Settings.examples,
        metavar="N",
        help="scenarios drawn for each check on each model",
    )
    group.addoption(
        "--conformance-seed", type=int, metavar="N", help="of what is drawn (default: the same scenarios every time)"
    )
    group.addoption("--conformance-shrink", action="store_true", help="make failing scenarios small (slow)")
    group.addoption("--conformance-shard", metavar="I/N", help="run part I of N, for one of N machines")
    group.addoption("--conformance-report", metavar="PATH", help="write the verdicts there, as JSON lines")
    group.addoption("--conformance-expect", metavar="PATH", help="a TOML file of expected failures, with reasons")
    group.addoption("--conformance-done", metavar="PATH", help="a report whose verdicts are taken over, not run again")


def choice(config: pytest.Config) -> Choice:
    """Return what was asked for, as it was written; raise `ValueError` for a shard that there is not."""
    shard = config.getoption("conformance_shard", default=None)
    return Choice(
        config.getoption("conformance_models", default=Choice.models),
        config.getoption("conformance_checks", default=Choice.checks),
        Shard.parsed(shard) if shard else None,
    )


def pairs(config: pytest.Config) -> List[Tuple[Model, Check]]:
    """Return the (model, check) to run: chosen, and not done before."""
    return choice(config).pairs(done_before(config))


def entries(config: pytest.Config) -> List[Swept]:
    """Return the model types and methods to sweep: chosen, and not done before."""
    return choice(config).entries(done_before(config))


def expected(config: pytest.Config) -> Tuple[Defect, ...]:
    """Return the failures that the user expects.

    Raises:
        ExpectedFileError: their file cannot be read.
    """
    path = config.getoption("conformance_expect", default=None)
    return _expected(path, choice(config).models) if path else ()


@functools.lru_cache(maxsize=None)  # a file of thousands would be read again for every test
def _expected(path: str, models: str) -> Tuple[Defect, ...]:
    return read_expected(Path(path), models)


def nothing(arguments: int) -> Any:
    """Return the one skipped test of no work, as of an empty shard; pytest's own differs from version to version."""
    return pytest.param(*[None] * arguments, id=NOTHING, marks=pytest.mark.skip(reason="there is nothing to run"))


def done_before(config: pytest.Config) -> Tuple[Verdict, ...]:
    """Return the verdicts that an earlier run found and this one takes over."""
    path = config.getoption("conformance_done", default=None)
    return read(Path(path)).verdicts if path else ()


def settings(config: pytest.Config) -> Settings:
    """Return the run's settings; the defaults where the plugin came too late for its options."""
    return Settings(
        device=config.getoption("conformance_device", default=Settings.device),
        with_shim=config.getoption("conformance_shim", default="on") == "on",
        examples=config.getoption("conformance_examples", default=Settings.examples),
        shrink=config.getoption("conformance_shrink", default=Settings.shrink),
        seed=config.getoption("conformance_seed", default=Settings.seed),
    )
