"""What a user's own model is, in one word: verdicts on it hold as long as that stays."""

from __future__ import annotations

import functools
import hashlib
import re
import sys
import sysconfig
import warnings
from pathlib import Path
from typing import Any, Iterator, Tuple

from conformance.models.named import made_by

_OURS = ("shim", "conformance", "__main__")
_PLAIN = (bool, int, float, str, type(None))
_ADDRESS = re.compile(r"\b0x[0-9a-f]+")


@functools.lru_cache(maxsize=None)
def fingerprint(spec: str) -> str:
    """Return a digest of what `made_by` makes of `spec`, and of the code that it is made of; "" where that fails.

    The code is every loaded module that lies neither in the standard library nor among the installed packages, and
    those of the package that `spec` names wherever it lies. What is made, under one seed of torch, counts by its
    structure, its configuration, its modules' plain attributes, its weights and its inputs. What is drawn otherwise
    differs from one process to the next, and so does the digest: verdicts are judged anew rather than taken over.
    """
    import torch

    digest = hashlib.sha256()
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            model, inputs = made_by(spec)
        for name, content in (*_code(spec), *_made(model), *_tensors(inputs.items())):
            digest.update(f"{name}\0{len(content)}\0".encode())
            digest.update(content)
    except Exception:  # whatever is wrong with it is the checks' to say
        return ""
    return digest.hexdigest()[:12]


def _code(spec: str) -> Iterator[Tuple[str, bytes]]:
    package = spec.partition(":")[0].partition(".")[0]
    for name, module in sorted(sys.modules.items()):
        # Not by getattr, at which some lazy modules import what is not there.
        top, file = name.partition(".")[0], getattr(module, "__dict__", {}).get("__file__")
        if file and top not in _OURS and (top == package or not _is_installed(Path(file))) and Path(file).is_file():
            yield name, Path(file).read_bytes()


def _is_installed(file: Path) -> bool:
    """Whether a file is the interpreter's or an installed package's, which a report's header has by version."""
    if {"site-packages", "dist-packages"} & set(file.parts):
        return True
    return any(Path(sysconfig.get_path(kind)) in file.parents for kind in ("stdlib", "platstdlib"))


def _made(model: Any) -> Iterator[Tuple[str, bytes]]:
    yield "structure", _ADDRESS.sub("", f"{model!r}\n{getattr(model, 'config', '')!r}").encode()
    for path, module in model.named_modules():
        plain = {name: value for name, value in vars(module).items() if isinstance(value, _PLAIN)}
        yield f"attributes of {path}", repr(sorted(plain.items())).encode()
    yield from _tensors(model.named_parameters())
    yield from _tensors(model.named_buffers())


def _tensors(named: Any) -> Iterator[Tuple[str, bytes]]:
    import torch

    for name, tensor in named:
        values = tensor.detach().cpu().contiguous()
        yield f"{name} {values.dtype} {tuple(values.shape)}", values.reshape(-1).view(torch.uint8).numpy().tobytes()
