"""`python -m conformance report`: what runs found, shown as tables, pages and pictures; and how a run shows its own."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Sequence

from conformance.report import markdown, methods, models, picture, pull_request, summary, table
from conformance.report.jsonl import Report, merge, read
from conformance.report.result import Result, exit_code
from conformance.shards import costs_of

FINE, FAILED = Result.PASSED.code, Result.FAILED.code


class UsageError(Exception):
    """What was asked for cannot be done; the message says why."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser of the command line."""
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
    add_github_options(reports)
    reports.set_defaults(command=report)


def add_github_options(parser: argparse.ArgumentParser) -> None:
    """Add what a run and a report may tell GitHub."""
    parser.add_argument("--summary", metavar="PATH", help='append Markdown there, such as "$GITHUB_STEP_SUMMARY"')
    parser.add_argument("--outputs", metavar="PATH", help='append the counts there, such as "$GITHUB_OUTPUT"')
    parser.add_argument(
        "--annotate",
        choices=("github", "none"),
        default="github" if os.environ.get("GITHUB_ACTIONS") == "true" else "none",
        help="print a line that GitHub shows for each failure (default: in GitHub Actions)",
    )


def report(options: argparse.Namespace) -> int:
    """Show the reports that are named, or write the pages that are asked for; exit 0, or as the worst report asks."""
    environments = merge([read(path) for path in options.paths])
    _show(options, environments)
    tell_github(options, environments)
    codes = [exit_code(merged) for merged in environments] if options.exit_code else []
    return FAILED if FAILED in codes else max(codes, default=FINE)


def _show(options: argparse.Namespace, environments: Sequence[Report]) -> None:
    """Write what was asked for; else print a table for each environment, or one for all."""
    from conformance.report import versions

    if (options.baseline or options.bench) and not options.html:
        raise UsageError("--baseline and --bench are shown in the page of --html PATH")
    if options.svg:
        Path(options.svg).write_text(picture.render(environments), encoding="utf-8")
    if _wrote_pages(options, environments):
        return
    several = versions.environments(environments)
    if len(several) > 1 and not options.tables:
        print_text(versions.render(several))
        return
    for merged in environments:
        if options.markdown:
            print(markdown.render(merged))
        else:
            print_table(merged)


def _wrote_pages(options: argparse.Namespace, environments: Sequence[Report]) -> bool:
    """Write every page that was asked for, and return whether any was."""
    from conformance.report import badge, versions

    if options.badge:
        Path(options.badge).write_text(badge.render(environments), encoding="utf-8")
    if options.html:
        _write_html(options, environments)
    if options.models_markdown:
        _write_page(models, environments, Path(options.models_markdown))
    if options.methods_markdown:
        _write_page(methods, environments, Path(options.methods_markdown))
    if options.costs:
        verdicts = [verdict for merged in environments for verdict in merged.verdicts]
        Path(options.costs).write_text(json.dumps(costs_of(verdicts), indent=1) + "\n", encoding="utf-8")
    if options.versions_markdown:
        for path, text in versions.pages(environments, Path(options.versions_markdown)).items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    pages = ("badge", "html", "models_markdown", "methods_markdown", "costs", "versions_markdown")
    return any(getattr(options, page) for page in pages)


def _write_html(options: argparse.Namespace, environments: Sequence[Report]) -> None:
    """Write the HTML page, with what it is compared with and the benches."""
    from conformance.report import benches, html

    if importlib.util.find_spec("jinja2") is None:
        raise UsageError("--html is made with jinja2, which is not installed: pip install jinja2")
    baseline = merge([read(path) for path in options.baseline]) if options.baseline else None
    page = html.render(environments, baseline, [benches.read(path) for path in options.bench])
    Path(options.html).write_text(page, encoding="utf-8", errors="replace")


def _write_page(page: ModuleType, environments: Sequence[Report], path: Path) -> None:
    """Write `page` of the one sweep that is here, beside the same without the shim where that is here.

    Two machines may have made them: of one stack of versions.
    """
    swept = [found for found in environments if page.swept(found)]
    stacks = sorted({summary.stack(found) for found in swept})
    if len(stacks) != 1:
        raise UsageError(f"{path.name} wants the sweep of one stack of versions, but here are {stacks or 'none'}")
    sides = {found.with_shim: found for found in swept}
    if len(sides) < len(swept):
        raise UsageError(f"{path.name} wants one sweep with the shim and one without, but {len(swept)} are here")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page.render(*(sides[side] for side in (True, False) if side in sides)), encoding="utf-8")


def tell_github(options: argparse.Namespace, found: Sequence[Report]) -> None:
    """Append the summary and the outputs to their files, and print the annotations where they are read."""
    if options.summary:
        pull_request.append_summary(Path(options.summary), found)
    if options.outputs:
        pull_request.append_outputs(Path(options.outputs), found)
    if options.annotate == "github":
        folder = Path(os.environ.get("GITHUB_WORKSPACE", os.curdir))
        print_text("".join(f"{line}\n" for one in found for line in pull_request.annotation_lines(one, folder)))


def print_table(shown: Report) -> None:
    """Print a report as a table, in colours and letters that the terminal has."""
    unicode = table.speaks_unicode(sys.stdout)
    print_text(table.render(shown, color=sys.stdout.isatty(), unicode=unicode))


def print_text(text: str) -> None:
    """Write text whose details may hold letters that the terminal has not."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
