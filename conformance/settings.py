"""The settings of one run of the suite: what is checked, where, and how hard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional


@dataclass(frozen=True)
class Settings:
    """How to run the checks.

    device: `cpu`, `cuda`, `cuda:1`, ...; `auto` is CUDA where there is one.
    with_shim: whether the shim is installed for the run.
    examples: scenarios drawn for each check on each model.
    shrink: whether a failing scenario is made as small as Hypothesis can; costs many more runs.
    seed: of what Hypothesis draws; None for the same scenarios every time, which the check alone decides.

    Raises:
        ValueError: examples is below 1.
    """

    device: str = "auto"
    with_shim: bool = True
    examples: int = 5
    shrink: bool = False
    seed: Optional[int] = None

    def __post_init__(self) -> None:
        if self.examples < 1:
            raise ValueError(f"examples is {self.examples}, but should be at least 1: no scenario shows nothing")
