"""`python -m conformance bench`: which bench answers which question, and how its options reach it."""

from __future__ import annotations

import argparse
import importlib.util
from functools import partial
from pathlib import Path
from typing import Callable, Dict, Iterator, List

from conformance.bench import page
from conformance.bench.measurements import Row, report, write
from conformance.report import benches
from conformance.selection import CannotLoad

Bench = Callable[..., List[Row]]


def _layers(quick: bool) -> int:
    return 4 if quick else 8


def _adapters(quick: bool, seconds: float) -> List[Row]:
    from conformance.bench import adapters

    return adapters.measure(quick=quick, seconds=seconds, layers=_layers(quick))


def _products(quick: bool, seconds: float) -> List[Row]:
    from conformance.bench import products

    return products.measure(quick=quick, seconds=seconds)


def _memory(quick: bool, seconds: float) -> List[Row]:
    from conformance.bench import memory

    return memory.measure(quick=quick)


def _switching(quick: bool, seconds: float) -> List[Row]:
    from conformance.bench import switching

    return switching.measure(quick=quick, seconds=seconds, layers=_layers(quick))


def _routing(quick: bool, seconds: float) -> List[Row]:
    from conformance.bench import routing

    return routing.measure(seconds=seconds)


def _kernels(quick: bool, seconds: float, device: str = "") -> List[Row]:
    from conformance.bench import kernels

    return kernels.measure(quick=quick, seconds=seconds, device=device)


BENCHES: Dict[str, Bench] = {
    "adapters": _adapters,
    "products": _products,
    "memory": _memory,
    "switching": _switching,
    "routing": _routing,
    "kernels": _kernels,
}
"""What each measures, by (quick, seconds for each comparison); `kernels` also by the device."""

_QUICK = ("adapters", "products", "memory", "switching")
_HELP = """adapters: time against their number, beside PEFT, one adapter, merged, base; products: base and adapter time
apart, against the rank; memory: of each adapter; switching: set_adapter and merging beside the mixed call; routing:
a trace, a call, a layer call; kernels: one layer under many adapters, kernel by kernel; all (default)"""

_FROM = "run nothing: take what --json wrote before"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of `python -m conformance`."""
    parser = commands.add_parser("bench", help="measure what a mixed batch costs, side by side")
    parser.add_argument("what", nargs="?", choices=[*BENCHES, "all"], default="all", help=" ".join(_HELP.split()))
    parser.add_argument("--quick", action="store_true", help="a few cases of each, in under two minutes")
    parser.add_argument("--seconds", type=float, metavar="S", help="for each comparison (default: 3, quick: 0.5)")
    parser.add_argument("--json", metavar="PATH", help="write the measurements there")
    parser.add_argument("--plots", metavar="FOLDER", type=Path, help="draw them there, as PNG; needs matplotlib")
    parser.add_argument("--from", dest="given", nargs="+", default=[], type=Path, metavar="PATH", help=_FROM)
    parser.add_argument("--markdown", metavar="PATH", type=Path, help="with --from: write a page of tables there")
    parser.add_argument("--device", default="", help="of kernels: cuda, cpu (default: cuda where there is one)")
    parser.add_argument("--model", metavar="PACKAGE:FUNCTION", help="measure yours: it returns (model, inputs)")
    parser.add_argument("--adapters", default="", metavar="NAMES", help="with --model: comma list of names or folders")
    parser.set_defaults(command=bench)


def bench(options: argparse.Namespace) -> int:
    """Measure what was asked for, print it, write and draw it where asked; exit 0 whatever it is.

    Raises:
        CannotLoad: `--model` or `--adapters` names nothing that can be measured, `--plots` without matplotlib, or
            `--device` for a bench that measures the CPU's work.
    """
    if options.plots and importlib.util.find_spec("matplotlib") is None:  # not found out after an hour
        raise CannotLoad("--plots draws by matplotlib, which is not installed: pip install matplotlib")
    if options.device and (options.model or options.what != "kernels"):
        raise CannotLoad(f"--device {options.device} is for `bench kernels`; the others measure work on one CPU thread")
    seconds = options.seconds if options.seconds is not None else 0.5 if options.quick else 3.0
    if options.markdown and not options.given:
        raise CannotLoad("--markdown is a page of what was written before: bench --from RESULT.json --markdown PAGE.md")
    given = [benches.read(path) for path in options.given]
    if options.markdown:
        options.markdown.write_text(page.render(given), "utf-8")
    rows: List[Row] = []
    written = [partial(page.rows_of, bench) for bench in given]
    for measure in written or _chosen(options, seconds):  # told and written one by one: the next may take half an hour
        found = measure()
        rows += found
        report(found)
        if options.json:
            write(rows, options.json)
    if options.plots:
        from conformance.bench.plot import draw

        for path in draw(rows, options.plots):
            print(path)
    return 0


def _chosen(options: argparse.Namespace, seconds: float) -> Iterator[Callable[[], List[Row]]]:
    if options.model:
        from conformance.bench import own

        chosen = [name for name in options.adapters.split(",") if name]
        model, inputs, adapters = own.load(options.model, chosen)
        yield lambda: own.measure(model, inputs, adapters, seconds=seconds)
        return
    device = {"device": options.device} if options.device else {}
    everything = _QUICK if options.quick else tuple(BENCHES)
    for name in everything if options.what == "all" else (options.what,):
        yield partial(BENCHES[name], options.quick, seconds, **device)
