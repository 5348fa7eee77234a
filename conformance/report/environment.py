"""The facts of the environment that a report's verdicts hold in."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import sys
from dataclasses import asdict
from datetime import datetime, timezone
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Sequence

from conformance.expected import reasons
from conformance.report.jsonl import FORMAT
from conformance.settings import Settings

PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "numpy",
    "safetensors",
    "mixed-adapter-batches",
    "hypothesis",
    "pytest",
    "pytest-xdist",
    "bitsandbytes",
    "torchao",
    "hqq",
    "optimum-quanto",
    "gptqmodel",
    "aqlm",
)


def header(
    settings: Settings,
    device: Optional[str] = None,
    choice: Optional[Mapping[str, Any]] = None,
    expected: Sequence[Mapping[str, Any]] = (),
) -> Dict[str, Any]:
    """Return a report's first line.

    device: as the process that ran the checks named it. choice: what was asked for, in words. expected: the failures
    that the user expects.
    """
    return {
        "kind": "header",
        "format": FORMAT,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command(),
        "code": code(),
        "settings": asdict(settings),
        **({"choice": dict(choice)} if choice else {}),
        **({"expected": list(expected)} if expected else {}),
        "environment": {
            **({"name": os.environ["TOX_ENV_NAME"]} if "TOX_ENV_NAME" in os.environ else {}),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "device": device or device_name(settings.device) or settings.device,
            "packages": versions(),
        },
    }


def goes_on_from(before: Mapping[str, Any], settings: Settings, expected: Sequence[Mapping[str, Any]] = ()) -> bool:
    """Whether a run begun now judges the same as the one of the header `before`.

    That takes the same code of ours, versions, device and settings, and the same failures expected for the same
    reasons; what was chosen, and the user's own models in it, `Choice.taken_over` holds against each verdict.
    """
    if reasons(before.get("expected", ())) != reasons(expected):
        return False
    import_module("torch")  # which names the device; one that ran nothing has named none
    now, made_in = header(settings), before.get("environment", {})
    same = all(made_in.get(key) == now["environment"][key] for key in ("python", "packages"))
    same = same and made_in.get("device") in (now["environment"]["device"], settings.device)
    # Whether failures are made small changes no verdict.
    then = {**before.get("settings", {}), "shrink": settings.shrink}
    return same and before.get("code") == now["code"] and then == now["settings"]


def code() -> str:
    """Return a fingerprint of the suite and of the shim: what a verdict holds for."""
    digest = hashlib.sha256()
    for package in ("shim", "conformance"):
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations if spec else None) or ():
            for path in sorted(Path(folder).rglob("*.py")):
                digest.update(f"{package}/{path.relative_to(folder).as_posix()}\0".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def versions() -> Dict[str, str]:
    """Return the versions of the installed ones of `PACKAGES`, without importing them."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def device_name(device: str) -> Optional[str]:
    """Return what `device` is, such as "cpu" or "cuda: NVIDIA H200"; None while torch is not imported."""
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and torch.cuda.is_available():
        return f"{device}: {torch.cuda.get_device_name(device)}"
    return device


def command() -> str:
    """Return the command line of this process, as a reader would type it."""
    program = Path(sys.argv[0])
    name = f"python -m {program.parent.name}" if program.name == "__main__.py" else program.name
    return " ".join([name, *map(shlex.quote, sys.argv[1:])])
