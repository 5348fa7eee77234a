"""The command line: `python -m conformance run | report | list`.

`run` drives pytest over `test_contract.py`, so it does what `pytest --pyargs conformance` does, away from
the user's pytest configuration. Exit codes: 0 where something was shown and nothing fails, 1 where something
fails or nothing was shown, 2 for wrong usage.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import os
import sys
import tempfile
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Iterator, List, Optional, Sequence

from conformance.report import markdown, picture, table
from conformance.report.jsonl import Report, ReportError, merge, read
from conformance.report.progress import progress
from conformance.selection import (
    ALL,
    UnknownChoiceError,
    chosen_checks,
    chosen_models,
    chosen_pairs,
    clause_order,
)
from conformance.settings import Settings

FINE, FAILED, USAGE = 0, 1, 2

# pytest's own exit codes, which cannot be asked of it before it is known to be installed.
_RAN = (0, 1, 2)  # fine, some failed, interrupted
_PYTEST_USAGE = 4

_PACKAGE = Path(__file__).parent


class _UsageError(Exception):
    """What was asked for cannot be done; the message says why."""


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run one command and return its exit code; `--help` and malformed arguments leave by `SystemExit`."""
    options = _parser().parse_args(argv)
    try:
        code: int = options.command(options)
    except (_UsageError, UnknownChoiceError, ReportError, OSError) as error:
        print(f"conformance: {error}", file=sys.stderr)
        return USAGE
    return code


def run(options: argparse.Namespace) -> int:
    """Run the checks, show the table, and write the report and JUnit where asked."""
    if not chosen_pairs(options.models, options.checks):
        raise _UsageError("none of these checks applies to any of these models")
    for package in ("pytest", "xdist") if options.workers else ("pytest",):
        if importlib.util.find_spec(package) is None:
            name = {"xdist": "pytest-xdist"}.get(package, package)
            raise _UsageError(f"{name} is not installed; pip install 'mixed-adapter-batches[conformance]'")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(options.report or Path(folder, "report.jsonl"))
        status = _run_pytest(_pytest_arguments(options, path), options.workers)
        if status not in _RAN:
            return USAGE if status == _PYTEST_USAGE else FAILED
        found = read(path)
    _print_table(found)
    return FINE if status == 0 and found.passed else FAILED


def report(options: argparse.Namespace) -> int:
    """Show one table for each environment in the reports that are named; exit 0 whatever they say."""
    environments = merge([read(path) for path in options.paths])
    if options.svg:
        Path(options.svg).write_text(picture.render(environments), encoding="utf-8")
    for merged in environments:
        if options.markdown:
            print(markdown.render(merged))
        else:
            _print_table(merged)
    return FINE


def list_all(options: argparse.Namespace) -> int:
    """Print the models and the checks with their clauses."""
    print("Models")
    for model in chosen_models():
        print(f"  {model.name:<32} {', '.join(sorted(model.tags))}".rstrip())
    print("\nChecks")
    for check in sorted(chosen_checks(), key=lambda check: list(map(clause_order, check.clauses))):
        print(f"  {', '.join(check.clauses):<12} {check.name}")
    return FINE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m conformance", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    runs = commands.add_parser("run", help="run the checks and show the table")
    runs.add_argument("--models", default=ALL, metavar="NAMES", help="comma list, or all (default)")
    runs.add_argument("--checks", default=ALL, metavar="NAMES", help="comma list of checks or clauses, such as R1,S1")
    runs.add_argument("--device", default=Settings.device, help="cpu, cuda, cuda:1, ... (default: %(default)s)")
    runs.add_argument("--without-shim", action="store_true", help="judge upstream as it is")
    runs.add_argument(
        "--examples",
        type=_positive,
        default=Settings.examples,
        metavar="N",
        help="scenarios for each check on each model (default: %(default)s)",
    )
    runs.add_argument("-n", dest="workers", metavar="N", help="processes, by pytest-xdist; auto: one a core")
    runs.add_argument("--report", metavar="PATH", help="write the verdicts there, as JSON lines")
    runs.add_argument("--junit", metavar="PATH", help="write JUnit XML there")
    runs.add_argument("--shrink", action="store_true", help="make failing scenarios small (slow)")
    runs.set_defaults(command=run)
    reports = commands.add_parser("report", help="show reports that were written before")
    reports.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    reports.add_argument("--markdown", action="store_true", help="as Markdown, for a README")
    reports.add_argument("--svg", metavar="PATH", help="draw the tables side by side, as a picture")
    reports.set_defaults(command=report)
    lists = commands.add_parser("list", help="list the models and the checks")
    lists.set_defaults(command=list_all)
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _pytest_arguments(options: argparse.Namespace, report_path: Path) -> List[str]:
    """Return pytest's arguments for this run, which no configuration of the user's is to change."""
    arguments = [
        str(_PACKAGE / "test_contract.py"),
        f"--rootdir={_PACKAGE.parent}",
        f"--confcutdir={_PACKAGE}",
        *("-c", os.devnull),
        *("-p", "no:cacheprovider"),
        # By module, so that a checkout that is not installed works; never by entry point as well, since
        # pytest takes a plugin under two names for an error.
        *("-p", "no:conformance", "-p", "conformance.plugin"),
        "-q",
        f"--conformance-models={options.models}",
        f"--conformance-checks={options.checks}",
        f"--conformance-device={options.device}",
        f"--conformance-shim={'off' if options.without_shim else 'on'}",
        f"--conformance-examples={options.examples}",
        f"--conformance-report={report_path}",
    ]
    if options.shrink:
        arguments.append("--conformance-shrink")
    if options.junit:
        arguments.append(f"--junitxml={options.junit}")
    if options.workers:
        arguments += ["-p", "xdist.plugin", "-n", options.workers]
    return arguments


def _run_pytest(arguments: List[str], workers: Optional[str]) -> int:
    """Return pytest's exit code; what it prints is shown only where it could not do its work."""
    import pytest

    shown = progress()
    printed = io.StringIO()
    try:
        with _environment(workers), redirect_stdout(printed):
            status = int(pytest.main(arguments, plugins=[shown]))
    finally:
        shown.close()
    if status not in (0, 1):
        print(printed.getvalue(), file=sys.stderr)
    return status


@contextmanager
def _environment(workers: Optional[str]) -> Iterator[None]:
    """Keep the user's pytest settings and plugins out, and workers from fighting over the cores."""
    before = dict(os.environ)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS"):
        os.environ.pop(name, None)
    if workers:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _print_table(shown: Report) -> None:
    unicode = table.speaks_unicode(sys.stdout)
    text = table.render(shown, color=sys.stdout.isatty(), unicode=unicode)
    # A detail may hold letters that the terminal has not.
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))


if __name__ == "__main__":
    sys.exit(main())
