"""The patch in place for each file, and a module made before it."""

from __future__ import annotations

from typing import Iterator

import pytest
import torch

from shim.patch import Applied
from shim.patches.forward_hooks_with_kwargs import PATCH
from tests.shim.patches.forward_hooks_with_kwargs.hooked import Old, Scale


@pytest.fixture(scope="module")
def old() -> Old:
    return Old()


@pytest.fixture(scope="module", autouse=True)
def applied(old: Old) -> Iterator[Applied]:
    patch = Applied()
    patch.add(PATCH.replacements())
    yield patch
    patch.restore()


@pytest.fixture
def unpatched(applied: Applied) -> Iterator[None]:
    applied.restore()
    yield
    applied.add(PATCH.replacements())


@pytest.fixture
def x() -> torch.Tensor:
    return torch.tensor([1.0, 5.0])


@pytest.fixture
def module() -> Scale:
    return Scale()
