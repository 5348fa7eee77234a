"""The command line: `python -m conformance run | check | report | bench | prove | list`.

`run` drives pytest over `test_contract.py`, so it does what `pytest --pyargs conformance` does, away from
the user's pytest configuration. Exit codes: 0 where something was shown and nothing fails, 1 where something
fails, 2 for wrong usage or a model that cannot be loaded, 3 where nothing was shown, 4 for a run that was cut short
or died. `report --exit-code` exits likewise, for reports merged.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

from conformance.bench import command as bench
from conformance.expected import ExpectedFileError, read_expected, to_records
from conformance.proof import command as proof
from conformance.report import command as report
from conformance.report.command import (
    FAILED,
    FINE,
    UsageError,
    add_github_options,
    print_table,
    print_text,
    tell_github,
)
from conformance.report.environment import goes_on_from, header
from conformance.report.jsonl import Report, ReportError, footer, read, write
from conformance.report.result import Result, exit_code
from conformance.report.summary import facts
from conformance.selection import (
    ALL,
    OWN,
    QUICK,
    TINY,
    Choice,
    UnknownChoiceError,
    chosen_checks,
    chosen_entries,
    chosen_models,
    clause_order,
    sweeps,
)
from conformance.session import pytest_arguments, run_pytest
from conformance.settings import Settings
from conformance.shards import Shard

USAGE, CUT_SHORT = 2, Result.CUT_SHORT.code

# pytest's own exit codes, which cannot be asked of it before it is known to be installed.
_RAN = (0, 1, 2)  # fine, some failed, interrupted
_PYTEST_USAGE = 4

_MODELS = """comma list; tiny: those written by hand (default), all: every model type, every:TYPE: one of these,
methods: every method of PEFT on one model, method:TYPE: one of these"""


_QUICK = """two scenarios each, without what compiles or proves again what another check proves: a minute for a tiny
model; what is left out is said"""
QUICK_EXAMPLES = 2


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run one command and return its exit code; `--help` and malformed arguments leave by `SystemExit`."""
    options = _parser().parse_args(argv)
    try:
        code: int = options.command(options)
    except (UsageError, UnknownChoiceError, ExpectedFileError, ReportError, OSError) as error:
        print(f"conformance: {error}", file=sys.stderr)
        return USAGE
    except Exception:  # whose own exit code, 1, would be taken for a clause that fails
        traceback.print_exc()
        return CUT_SHORT
    return code


def run(options: argparse.Namespace) -> int:
    """Run the checks, show the table, and write the report and JUnit where asked."""
    return _run(options, _validated(options))


def _validated(options: argparse.Namespace) -> Choice:
    """Return what was asked for; whatever is wrong with it is said before anything is shown or run."""
    choice = _choice(options)
    if options.on_record and not options.without_shim:
        raise UsageError("--on-record holds upstream against its known defects, so it needs --without-shim")
    if options.on_record and options.expect:
        raise UsageError("--on-record is the record of expected failures itself: leave out --expect")
    if options.resume and not options.report:
        raise UsageError("--resume needs --report: the report that holds what is done already")
    if options.report and Path(options.report).is_dir():
        raise UsageError(f"--report {options.report} is a directory, but should be a file")
    if options.resume and Path(options.report).exists():
        read(Path(options.report))
    for package in ("pytest", "xdist") if options.workers else ("pytest",):
        if importlib.util.find_spec(package) is None:
            name = {"xdist": "pytest-xdist"}.get(package, package)
            raise UsageError(f"{name} is not installed; pip install 'mixed-adapter-batches[conformance]'")
    if options.device != Settings.device:
        from conformance.subject import device_named

        device_named(options.device)
    chosen_checks(choice.checks)  # before any model is made
    whole = replace(choice, shard=None)
    if not whole.pairs() and not whole.entries():
        raise UsageError("none of these checks applies to any of these models")
    whole.own()  # now, before the checks load more of the user's code
    if options.expect:
        read_expected(Path(options.expect), options.models)
    return choice


def _run(options: argparse.Namespace, choice: Choice) -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(options.report or Path(folder, "report.jsonl"))
        done = _done_before(options, choice, path, Path(folder, "done.jsonl"))
        arguments = pytest_arguments(options, choice, path, done)
        if not arguments:  # an empty shard, or all was done before
            _write_done(options, choice, path, read(done) if done else Report({}, (), {}))
        status = run_pytest(arguments, options.workers) if arguments else 0
        if status not in _RAN:
            return USAGE if status == _PYTEST_USAGE else CUT_SHORT
        found = read(path)
    if options.on_record:
        return _hold_against_record(found)
    print_table(found)
    tell_github(options, [found])
    return exit_code(found) or (FINE if status == 0 else FAILED)


def _hold_against_record(found: Report) -> int:
    """Print how a run without the shim compares with the defects on record, and return the exit code."""
    from conformance.report import expected
    from conformance.upstream.expectation import expectation

    held = expectation(found)
    print(facts(found))
    print_text(expected.render(held))
    if not held.met:
        return FAILED
    return FINE if found.complete else CUT_SHORT


def check(options: argparse.Namespace) -> int:
    """Show the route of each adapted layer of a user's own model, then run the checks on it."""
    from conformance.models.own import own_model
    from conformance.subject import routes

    options.models = OWN + options.model
    choice = _validated(options)
    if not options.without_shim:
        try:
            print_text(routes(own_model(options.models), options.device) + "\n")
        except Exception as error:  # the checks say what it comes to
            print_text(f"no route can be shown: {type(error).__name__}: {error}\n\n")
    return _run(options, choice)


def list_all(options: argparse.Namespace) -> int:
    """Print the models and the checks with their clauses, or write the page of the contract."""
    if options.contract_markdown:
        from conformance.report import contract

        Path(options.contract_markdown).write_text(contract.render(), encoding="utf-8")
        return FINE
    print("Models")
    for model in chosen_models(options.models):
        print(f"  {model.name:<32} {', '.join(sorted(model.tags))}".rstrip())
    for entry in chosen_entries(options.models):
        print(f"  {entry.name:<48} {entry.architecture}".rstrip())
    print("\nChecks")
    for check in sorted(chosen_checks(), key=lambda check: list(map(clause_order, check.clauses))):
        print(f"  {', '.join(check.clauses):<12} {check.name}")
    return FINE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m conformance", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    runs = commands.add_parser("run", help="run the checks and show the table")
    runs.add_argument("--models", default=TINY, metavar="NAMES", help=_MODELS)
    runs.add_argument(
        "--on-record",
        action="store_true",
        help="with --without-shim: exit 0 if upstream is broken as known, and only so",
    )
    _add_run_options(runs)
    runs.set_defaults(command=run)
    own = commands.add_parser("check", help="run the checks on a model of yours, and show its routes")
    own.add_argument(
        "model",
        metavar="PACKAGE:NAME",
        help="a function that returns (model, inputs of two samples or more), or a model or configuration of "
        "transformers; a class of these; or the folder of a checkpoint",
    )
    _add_run_options(own)
    own.set_defaults(command=check, on_record=False)
    report.add_parser(commands)
    bench.add_parser(commands)
    proof.add_parser(commands)
    lists = commands.add_parser("list", help="list the models and the checks")
    lists.add_argument("--models", default=TINY, metavar="NAMES", help=_MODELS)
    lists.add_argument("--contract-markdown", metavar="PATH", help="write each clause with its checks there, instead")
    lists.set_defaults(command=list_all)
    return parser


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checks", metavar="NAMES", help="comma list of checks or clauses, such as R1,S1")
    parser.add_argument("--quick", action="store_true", help=_QUICK)
    parser.add_argument("--device", default=Settings.device, help="cpu, cuda, cuda:1, ... (default: %(default)s)")
    parser.add_argument("--without-shim", action="store_true", help="judge upstream as it is")
    parser.add_argument(
        "--examples",
        type=_scenarios,
        metavar="N",
        help=f"scenarios for each check on each model (default: {Settings.examples})",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="draw other scenarios (default: the same every time)")
    parser.add_argument("-n", dest="workers", metavar="N", help="processes, by pytest-xdist; auto: one a core")
    parser.add_argument("--report", metavar="PATH", help="write the verdicts there, as JSON lines")
    parser.add_argument("--expect", metavar="PATH", help="a TOML file of expected failures, with reasons; strict")
    parser.add_argument("--shard", type=_shard, metavar="I/N", help="run part I of N; `report` merges the parts")
    parser.add_argument("--resume", action="store_true", help="take over what the report in --report holds already")
    parser.add_argument("--junit", metavar="PATH", help="write JUnit XML there")
    add_github_options(parser)
    parser.add_argument("--shrink", action="store_true", help="make failing scenarios small (slow)")


def _shard(text: str) -> Shard:
    try:
        return Shard.parsed(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _scenarios(text: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} was given, but should be a whole number of at least 1")
    return int(text)


def _choice(options: argparse.Namespace) -> Choice:
    """Return what was asked for; --quick sets the examples, too."""
    if not options.quick:
        options.examples = options.examples or Settings.examples
        return Choice(options.models, options.checks or ALL, options.shard)
    if options.checks or options.examples:
        raise UsageError("--quick chooses the checks and the examples: leave out --checks and --examples")
    if sweeps(options.models):
        raise UsageError("--quick is for models with checks, and a sweep has none: name some of its types instead")
    options.examples = QUICK_EXAMPLES
    return Choice(options.models, QUICK, options.shard)


def _settings(options: argparse.Namespace) -> Settings:
    return Settings(options.device, not options.without_shim, options.examples, options.shrink, options.seed)


def _done_before(options: argparse.Namespace, choice: Choice, report_path: Path, copy: Path) -> Optional[Path]:
    """Return where the verdicts that this run takes over were put; None where there are none."""
    if not options.resume or not report_path.exists():
        return None
    before = read(report_path)
    if not goes_on_from(before.header, _settings(options), _expected(options)):
        print(f"{report_path} was made by other code, versions or settings, or on another device: starting anew")
        return None
    then = before.header.get("choice", {})
    kept = choice.taken_over(then, before.verdicts)
    changed = {verdict.model for verdict in before.verdicts}.intersection(choice.changed(then))
    for model in sorted(changed):
        print(f"{model} is not known to be what it was in {report_path} (code, weights or inputs): starting anew on it")
    others = sum(verdict.model not in changed for verdict in before.verdicts) - len(kept)
    if others:
        print(f"{others} of the verdicts in {report_path} were not asked for now: they are left out")
    write(copy, replace(before, verdicts=tuple(kept)))
    return copy


def _write_done(options: argparse.Namespace, choice: Choice, path: Path, done: Report) -> None:
    """Write the report of a run that has nothing to do but to take over what was `done` before; none that is there."""
    if done.complete and done == read(path) and done.header.get("choice") == choice.to_record():
        return
    device = done.header.get("environment", {}).get("device")
    begins = header(_settings(options), device, choice.to_record(), _expected(options))
    seconds = done.footer.get("seconds", 0.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, Report(begins, done.verdicts, footer(done.verdicts, seconds=seconds, complete=True, header=begins)))


def _expected(options: argparse.Namespace) -> Sequence[Mapping[str, Any]]:
    return to_records(read_expected(Path(options.expect), options.models)) if options.expect else ()


if __name__ == "__main__":
    sys.exit(main())
