"""The facts of the environment that a report's verdicts hold in."""

from __future__ import annotations

import platform
import shlex
import sys
from dataclasses import asdict
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, Dict, Optional

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
)


def header(settings: Settings, device: Optional[str] = None) -> Dict[str, Any]:
    """Return a report's first line; `device` as the process that ran the checks named it."""
    return {
        "kind": "header",
        "format": FORMAT,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command(),
        "settings": asdict(settings),
        "environment": {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "device": device or device_name(settings.device) or settings.device,
            "packages": versions(),
        },
    }


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
