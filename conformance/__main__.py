"""The command line: `python -m conformance run | check | report | bench | prove | list`.

`run` drives pytest over `test_contract.py`, so it does what `pytest --pyargs conformance` does, away from
the user's pytest configuration. Exit codes: 0 where something was shown and nothing fails, 1 where something
fails, 2 for wrong usage or a model that cannot be loaded, 3 where nothing was shown, 4 for a run that was cut short
or died. `report --exit-code` exits likewise, for reports merged.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import tempfile
import traceback
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Optional, Sequence

from conformance.bench import command
from conformance.expected import ExpectedFileError, read_expected, to_records
from conformance.proof import command as proof
from conformance.report import markdown, methods, models, picture, pull_request, table
from conformance.report.environment import goes_on_from, header
from conformance.report.jsonl import Report, ReportError, footer, merge, read, write
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
from conformance.shards import Shard, costs_of

FINE, FAILED, USAGE, CUT_SHORT = 0, 1, 2, Result.CUT_SHORT.code

# pytest's own exit codes, which cannot be asked of it before it is known to be installed.
_RAN = (0, 1, 2)  # fine, some failed, interrupted
_PYTEST_USAGE = 4

_MODELS = """comma list; tiny: those written by hand (default), all: every model type, every:TYPE: one of these,
methods: every method of PEFT on one model, method:TYPE: one of these"""


_QUICK = """two scenarios each, without what compiles or proves again what another check proves: a minute for a tiny
model; what is left out is said"""
QUICK_EXAMPLES = 2


class _UsageError(Exception):
    """What was asked for cannot be done; the message says why."""


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run one command and return its exit code; `--help` and malformed arguments leave by `SystemExit`."""
    options = _parser().parse_args(argv)
    try:
        code: int = options.command(options)
    except (_UsageError, UnknownChoiceError, ExpectedFileError, ReportError, OSError) as error:
        print(f"conformance: {error}", file=sys.stderr)
        return USAGE
    except Exception:  # whose own exit code, 1, would be taken for a clause that fails
        traceback.print_exc()
        return CUT_SHORT
    return code


def run(options: argparse.Namespace) -> int:
    """Run the checks, show the table, and write the report and JUnit where asked."""
    choice = _choice(options)
    if options.on_record and not options.without_shim:
        raise _UsageError("--on-record holds upstream against its known defects, so it needs --without-shim")
    if options.on_record and options.expect:
        raise _UsageError("--on-record is the record of expected failures itself: leave out --expect")
    whole = replace(choice, shard=None)
    if not whole.pairs() and not whole.entries():
        raise _UsageError("none of these checks applies to any of these models")
    for package in ("pytest", "xdist") if options.workers else ("pytest",):
        if importlib.util.find_spec(package) is None:
            name = {"xdist": "pytest-xdist"}.get(package, package)
            raise _UsageError(f"{name} is not installed; pip install 'mixed-adapter-batches[conformance]'")
    if options.expect:
        read_expected(Path(options.expect), options.models)  # what is wrong with it is said before anything runs
    with tempfile.TemporaryDirectory() as folder:
        path = Path(options.report or Path(folder, "report.jsonl"))
        done = _done_before(options, path, Path(folder, "done.jsonl"))
        arguments = pytest_arguments(options, choice, path, done)
        if not arguments and not done:  # an empty shard
            write(
                path,
                Report(header(_settings(options), None, choice.to_record()), (), footer((), seconds=0, complete=True)),
            )
        status = run_pytest(arguments, options.workers) if arguments else 0
        if status not in _RAN:
            return USAGE if status == _PYTEST_USAGE else CUT_SHORT
        found = read(path)
    if options.on_record:
        return _hold_against_record(found)
    _print_table(found)
    _tell_github(options, [found])
    return exit_code(found) or (FINE if status == 0 else FAILED)


def _tell_github(options: argparse.Namespace, found: Sequence[Report]) -> None:
    """Append the summary to the file of --summary, and print the annotations where they are read."""
    if options.summary:
        pull_request.append_summary(Path(options.summary), found)
    if options.annotate == "github":
        folder = Path(os.environ.get("GITHUB_WORKSPACE", os.curdir))
        _print("".join(f"{line}\n" for one in found for line in pull_request.annotation_lines(one, folder)))


def _hold_against_record(found: Report) -> int:
    """Print how a run without the shim compares with the defects on record, and return the exit code."""
    from conformance.report import expected
    from conformance.upstream.expectation import expectation

    held = expectation(found)
    print(facts(found))
    _print(expected.render(held))
    if not held.met:
        return FAILED
    return FINE if found.complete else CUT_SHORT


def check(options: argparse.Namespace) -> int:
    """Show the route of each adapted layer of a user's own model, then run the checks on it."""
    from conformance.models.own import own_model
    from conformance.subject import routes

    model = own_model(OWN + options.model)
    if not options.without_shim:
        try:
            _print(routes(model, options.device) + "\n")
        except Exception as error:  # the checks say what it comes to
            _print(f"no route can be shown: {type(error).__name__}: {error}\n\n")
    options.models = model.name
    return run(options)


def report(options: argparse.Namespace) -> int:
    """Show one table for each environment in the reports that are named; exit 0, or as the worst of them asks."""
    environments = merge([read(path) for path in options.paths])
    _show(options, environments)
    _tell_github(options, environments)
    if options.outputs:
        pull_request.append_outputs(Path(options.outputs), environments)
    codes = [exit_code(merged) for merged in environments] if options.exit_code else []
    return FAILED if FAILED in codes else max(codes, default=FINE)


def _show(options: argparse.Namespace, environments: Sequence[Report]) -> None:
    """Write the page that was asked for; else print a table for each environment, or one for all."""
    from conformance.report import versions

    if (options.baseline or options.bench) and not options.html:
        raise _UsageError("--baseline and --bench are shown in the page of --html PATH")
    if options.svg:
        Path(options.svg).write_text(picture.render(environments), encoding="utf-8")
    if options.html or options.badge:
        _write_html_and_badge(options, environments)
        return
    if options.models_markdown:
        _write_page(models, environments, Path(options.models_markdown))
        return
    if options.costs:
        verdicts = [verdict for merged in environments for verdict in merged.verdicts]
        Path(options.costs).write_text(json.dumps(costs_of(verdicts), indent=1) + "\n", encoding="utf-8")
        return
    if options.methods_markdown:
        _write_page(methods, environments, Path(options.methods_markdown))
        return
    if options.versions_markdown:
        for path, text in versions.pages(environments, Path(options.versions_markdown)).items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return
    several = versions.environments(environments)
    if len(several) > 1 and not options.tables:
        _print(versions.render(several))
        return
    for merged in environments:
        if options.markdown:
            print(markdown.render(merged))
        else:
            _print_table(merged)


def _write_html_and_badge(options: argparse.Namespace, environments: Sequence[Report]) -> None:
    """Write the HTML page, with what it is compared with and the benches, and the badge, where asked."""
    from conformance.report import badge, benches, html

    if options.badge:
        Path(options.badge).write_text(badge.render(environments), encoding="utf-8")
    if options.html:
        if importlib.util.find_spec("jinja2") is None:
            raise _UsageError("--html is made with jinja2, which is not installed: pip install jinja2")
        baseline = merge([read(path) for path in options.baseline]) if options.baseline else None
        page = html.render(environments, baseline, [benches.read(path) for path in options.bench])
        Path(options.html).write_text(page, encoding="utf-8", errors="replace")


def _write_page(page: ModuleType, environments: Sequence[Report], path: Path) -> None:
    """Write `page` of the one environment whose sweep is here, beside the same without the shim where that is here."""
    from conformance.report import versions

    swept = versions.environments([found for found in environments if page.swept(found)])
    if len(swept) != 1:
        raise _UsageError(f"{path.name} wants reports of one environment with its sweep, but {len(swept)} are here")
    path.parent.mkdir(parents=True, exist_ok=True)
    reports = [found for found in (swept[0].with_shim, swept[0].without_shim) if found]
    path.write_text(page.render(*reports), encoding="utf-8")


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
    _add_report(commands)
    command.add_parser(commands)
    proof.add_parser(commands)
    lists = commands.add_parser("list", help="list the models and the checks")
    lists.add_argument("--models", default=TINY, metavar="NAMES", help=_MODELS)
    lists.add_argument("--contract-markdown", metavar="PATH", help="write each clause with its checks there, instead")
    lists.set_defaults(command=list_all)
    return parser


def _add_report(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    reports = commands.add_parser("report", help="show reports that were written before")
    reports.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    reports.add_argument("--markdown", action="store_true", help="as Markdown, for a README")
    reports.add_argument("--svg", metavar="PATH", help="draw the tables side by side, as a picture")
    reports.add_argument("--html", metavar="PATH", help="write one page of everything, for a browser")
    reports.add_argument(
        "--baseline", nargs="+", default=[], type=Path, metavar="PATH", help="with --html: say what changed since these"
    )
    reports.add_argument(
        "--bench", nargs="+", default=[], type=Path, metavar="PATH", help="with --html: show what bench --json wrote"
    )
    reports.add_argument("--badge", metavar="PATH", help="write the result as a badge, an SVG file")
    reports.add_argument("--models-markdown", metavar="PATH", help="write the page of every model type there")
    reports.add_argument("--methods-markdown", metavar="PATH", help="write the page of every method of PEFT there")
    reports.add_argument(
        "--versions-markdown",
        metavar="PATH",
        help="write the page of every environment there, and one for each beside it",
    )
    reports.add_argument(
        "--tables", action="store_true", help="a table for each of several environments, not one for all"
    )
    reports.add_argument("--costs", metavar="PATH", help="write there what each check took: conformance/costs.json")
    reports.add_argument("--exit-code", action="store_true", help="exit as the run would: for the parts of one, merged")
    reports.add_argument("--outputs", metavar="PATH", help='append the counts there, such as "$GITHUB_OUTPUT"')
    _add_github_options(reports)
    reports.set_defaults(command=report)


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checks", metavar="NAMES", help="comma list of checks or clauses, such as R1,S1")
    parser.add_argument("--quick", action="store_true", help=_QUICK)
    parser.add_argument("--device", default=Settings.device, help="cpu, cuda, cuda:1, ... (default: %(default)s)")
    parser.add_argument("--without-shim", action="store_true", help="judge upstream as it is")
    parser.add_argument(
        "--examples",
        type=_positive,
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
    _add_github_options(parser)
    parser.add_argument("--shrink", action="store_true", help="make failing scenarios small (slow)")


def _shard(text: str) -> Shard:
    try:
        return Shard.parsed(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _add_github_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--summary", metavar="PATH", help='append Markdown there, such as "$GITHUB_STEP_SUMMARY"')
    parser.add_argument(
        "--annotate",
        choices=("github", "none"),
        default="github" if os.environ.get("GITHUB_ACTIONS") == "true" else "none",
        help="print a line that GitHub shows for each failure (default: in GitHub Actions)",
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _choice(options: argparse.Namespace) -> Choice:
    """Return what was asked for; --quick sets the examples, too."""
    if not options.quick:
        options.examples = options.examples or Settings.examples
        return Choice(options.models, options.checks or ALL, options.shard)
    if options.checks or options.examples:
        raise _UsageError("--quick chooses the checks and the examples: leave out --checks and --examples")
    if sweeps(options.models):
        raise _UsageError("--quick is for models with checks, and a sweep has none: name some of its types instead")
    options.examples = QUICK_EXAMPLES
    return Choice(options.models, QUICK, options.shard)


def _settings(options: argparse.Namespace) -> Settings:
    return Settings(options.device, not options.without_shim, options.examples, options.shrink, options.seed)


def _done_before(options: argparse.Namespace, report_path: Path, copy: Path) -> Optional[Path]:
    """Return where the verdicts of the run that this one goes on with were put; None where there are none."""
    if not options.resume:
        return None
    if not options.report:
        raise _UsageError("--resume needs --report: the report that holds what is done already")
    if not report_path.exists():
        return None
    before = read(report_path)
    expected = to_records(read_expected(Path(options.expect), options.models)) if options.expect else ()
    if not goes_on_from(before.header, _settings(options), expected):
        print(f"{report_path} was made by other code, versions or settings: starting anew")
        return None
    write(copy, before)
    return copy


def _print_table(shown: Report) -> None:
    unicode = table.speaks_unicode(sys.stdout)
    _print(table.render(shown, color=sys.stdout.isatty(), unicode=unicode))


def _print(text: str) -> None:
    """Write text whose details may hold letters that the terminal has not."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))


if __name__ == "__main__":
    sys.exit(main())
