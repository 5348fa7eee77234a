"""`python -m conformance prove`: that every planted fault is caught, run after run, and nothing else is."""

from __future__ import annotations

import argparse
import hashlib
import importlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Collection, Dict, List, Sequence, Tuple

from conformance.report.environment import header
from conformance.report.jsonl import FORMAT
from conformance.settings import Settings

if TYPE_CHECKING:
    from conformance.proof.batch import Batch
    from conformance.proof.tally import Proof, Tally

_EXAMPLES = 2  # as a cell of the gate draws
_SHARE = 0.95
_SCENARIOS = 1000


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of `python -m conformance`."""
    parser = commands.add_parser("prove", help="plant faults, and show how often each is caught")
    parser.add_argument(
        "--faults", default="tests.faults", metavar="PACKAGE", help="where they are planted (default: %(default)s)"
    )
    parser.add_argument("--only", default="", metavar="NAMES", help="comma list of faults (default: all)")
    parser.add_argument("--seeds", type=int, default=100, metavar="N", help="runs of each fault (default: %(default)s)")
    parser.add_argument(
        "--examples", type=int, default=_EXAMPLES, metavar="N", help="scenarios in a run (default: %(default)s)"
    )
    parser.add_argument(
        "--scenarios",
        type=int,
        default=_SCENARIOS,
        metavar="N",
        help="at least so many on correct models, for false alarms (default: %(default)s)",
    )
    parser.add_argument(
        "--share", type=float, default=_SHARE, help="exit 1 where a fault is caught less often (default: %(default)s)"
    )
    parser.add_argument("--minutes", type=float, metavar="N", help="begin nothing after so long; --resume goes on")
    parser.add_argument("-n", dest="workers", type=int, default=1, metavar="N", help="processes (default: 1)")
    parser.add_argument("--device", default=Settings.device, help="cpu, cuda, ... (default: %(default)s)")
    parser.add_argument("--report", type=Path, metavar="PATH", help="write the counts there, as JSON lines")
    parser.add_argument("--resume", action="store_true", help="go on from what --report holds already")
    parser.add_argument("--markdown", type=Path, metavar="PATH", help="write the page there")
    parser.add_argument("--page-only", action="store_true", help="run nothing: write --markdown from --report")
    parser.add_argument("--results", type=Path, default=Path("results"), help="what else the page shows (%(default)s)")
    parser.set_defaults(command=prove)


def prove(options: argparse.Namespace) -> int:
    """Run what is left to run, show and write it; exit 0 where every fault is caught, 1 where not, 4 where cut short.

    Raises:
        CannotLoad: no faults are where they should be.
        UnknownChoiceError: what is asked for needs another option.
    """
    from conformance.proof import batch, fault, page
    from conformance.proof.tally import read, write
    from conformance.selection import UnknownChoiceError

    if options.page_only:
        if not options.report or not options.markdown:
            raise UnknownChoiceError("--page-only writes --markdown PATH from --report PATH: it needs both")
        _write_page(options, read(options.report))
        return 0
    known = fault.load(options.faults)
    chosen = {name: known[name] for name in _chosen(options.only, known)}
    begun = _begun(options)
    todo = batch.batches(chosen, options.seeds, options.scenarios, _settings(options), begun)
    proof, ran = _run(options, begun, todo)
    if options.report:
        write(options.report, proof)
    if options.markdown:
        _write_page(options, proof)
    print(page.summary(proof, options.share))
    if proof.uncaught(options.share) or proof.alarms:
        return 1
    return 0 if ran == len(todo) else 4


def _run(options: argparse.Namespace, begun: Proof, todo: Sequence[Batch]) -> Tuple[Proof, int]:
    """Run the batches while there is time, and write down what each comes to; return it all, and how many were run."""
    from conformance.proof import batch, page
    from conformance.proof.tally import Proof, merged, to_json, write

    end = time.monotonic() + 60 * (options.minutes or float("inf"))
    if options.report:
        write(options.report, begun)
    tallies: List[Tally] = []
    for tally in batch.run(todo, options.faults, options.workers):
        tallies.append(tally)
        if options.report:
            with options.report.open("a", encoding="utf-8") as file:
                file.write(to_json(tally) + "\n")
        print(f"{len(tallies)}/{len(todo)}: {page.line(tally)}", flush=True)
        if time.monotonic() > end:
            break
    return Proof(begun.header, merged([*begun.tallies, *tallies])), len(tallies)


def _write_page(options: argparse.Namespace, proof: Proof) -> None:
    from conformance.proof import page

    options.markdown.write_text(page.render(proof, options.results), encoding="utf-8")


def _chosen(only: str, known: Collection[str]) -> List[str]:
    from conformance.selection import UnknownChoiceError

    names = [name for name in only.split(",") if name] or sorted(known)
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise UnknownChoiceError(f"--only {unknown[0]}: no such fault is planted")
    return names


def _settings(options: argparse.Namespace) -> Settings:
    return Settings(device=options.device, examples=options.examples)


def _begun(options: argparse.Namespace) -> Proof:
    """Return what was run before, where this run goes on from it; else a proof of nothing yet."""
    from conformance.proof.tally import Proof, read
    from conformance.selection import UnknownChoiceError

    now = _header(options)
    if options.resume and not options.report:
        raise UnknownChoiceError("--resume needs --report: the counts to go on from")
    if options.resume and options.report.exists():
        before = read(options.report)
        if all(before.header.get(key) == now[key] for key in ("code", "faults", "settings")):
            return before
        print(f"{options.report} was made by other code, faults or settings: starting anew")
    return Proof(now, ())


def _header(options: argparse.Namespace) -> Dict[str, Any]:
    from conformance.proof.fault import FAULTS

    about = {"kind": "proof", "format": FORMAT, "faults": _fingerprint(options.faults), "planted": sorted(FAULTS)}
    return {**header(_settings(options)), **about}


def _fingerprint(package: str) -> str:
    module = importlib.import_module(package)
    digest = hashlib.sha256()
    folders = list(getattr(module, "__path__", ()))
    files = [path for folder in folders for path in Path(folder).rglob("*.py")] or [Path(str(module.__file__))]
    for path in sorted(files):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
