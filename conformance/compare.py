"""When two rows are the same, when they are not, and when the question was too weak to count.

Tiers (contract, Exactness): integer-valued models bitwise; float64 to a relative error of 1e-9, on rows where
the adapters differ by at least 1000 times that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping, Sequence

FLOAT64_TOLERANCE = 1e-9
POWER = 1000.0


class Mismatch(AssertionError):
    """A row is not what it should be."""


class Vacuous(AssertionError):
    """The adapters are so alike on a row that a wrong answer would have passed."""


@dataclass(frozen=True)
class Evidence:
    """What a comparison showed: the worst relative error, and the least separation of adapters on a row."""

    error: float = 0.0
    separation: float = float("inf")

    def __add__(self, other: Evidence) -> Evidence:
        return Evidence(max(self.error, other.error), min(self.separation, other.separation))


@dataclass(frozen=True)
class Tier:
    """How equal two rows must be: `tolerance` relative to the largest value; 0 is bitwise."""

    tolerance: float = FLOAT64_TOLERANCE

    @property
    def least_separation(self) -> float:
        """The relative distance that adapters must keep on a row for a comparison to count."""
        return self.tolerance * POWER


EXACT = Tier(0.0)
FLOAT64 = Tier()


def relative_error(observed: Any, expected: Any) -> float:
    """Return the largest difference relative to the largest expected value; 0.0 only for equal tensors.

    Other shapes, types or non-finite places are an infinite error; integers and booleans differ by 0 or inf.
    """
    import torch

    if observed.shape != expected.shape or observed.dtype != expected.dtype:
        return float("inf")
    if not (expected.is_floating_point() or expected.is_complex()):
        return 0.0 if torch.equal(observed, expected) else float("inf")
    finite = torch.isfinite(expected)
    odd_observed, odd_expected = observed[~finite], expected[~finite]
    same_odd = (odd_observed == odd_expected) | (torch.isnan(odd_observed) & torch.isnan(odd_expected))
    if not bool(same_odd.all()) or not bool(torch.isfinite(observed[finite]).all()):
        return float("inf")
    if not bool(finite.any()):
        return 0.0
    gap = (observed[finite] - expected[finite]).abs().max().item()
    size = expected[finite].abs().max().item()
    if gap == 0.0:
        return 0.0
    return float(gap / size) if size > 0 else float("inf")


def compare_row(
    observed: Mapping[str, Any],
    expected: Mapping[str, Any],
    others: Mapping[str, Mapping[str, Any]],
    tier: Tier,
    where: str,
) -> Evidence:
    """Compare one row's output tensors with what its adapter alone gives; `others` are other adapters' rows.

    Raises:
        Mismatch: a tensor is missing or differs; the message says which row, tensor and by how much.
        Vacuous: an other adapter's row is too close for the comparison to mean anything.
    """
    worst = 0.0
    for path, want in expected.items():
        if path not in observed:
            raise Mismatch(f"output {path!r} is missing, but should be there as in the adapter's own run [{where}]")
        error = relative_error(observed[path], want)
        worst = max(worst, error)
        if error > tier.tolerance:
            raise Mismatch(_difference(path, observed[path], want, error, tier, others, where))
    separation = min((_distance(expected, other) for other in others.values()), default=float("inf"))
    if others and (separation <= 0.0 or separation < tier.least_separation):
        closest = min(others, key=lambda name: _distance(expected, others[name]))
        raise Vacuous(
            f"the row differs from {closest!r}'s by {separation:.1e} only, but should by {tier.least_separation:.0e} "
            f"for the comparison to count [{where}]. Make the adapters stronger or less alike"
        )
    return Evidence(worst, separation)


def _distance(left: Mapping[str, Any], right: Mapping[str, Any]) -> float:
    return max((relative_error(right[path], left[path]) for path in left if path in right), default=0.0)


def _difference(
    path: str, observed: Any, want: Any, error: float, tier: Tier, others: Mapping[str, Any], where: str
) -> str:
    message = (
        f"output {path!r} differs by {error:.2e} (relative), but should by at most {tier.tolerance:.0e} [{where}]; "
        f"observed {_shown(observed)}, expected {_shown(want)}"
    )
    for name, other in others.items():
        if path in other and relative_error(observed, other[path]) <= tier.tolerance:
            message += f". It is what {name!r} would give"
    return message


def _shown(tensor: Any, values: int = 4) -> str:
    flat: Sequence[float] = tensor.flatten()[:values].tolist()
    shown = ", ".join(f"{value:.4g}" for value in flat)
    return f"{tuple(tensor.shape)} [{shown}{', …' if tensor.numel() > values else ''}]"
