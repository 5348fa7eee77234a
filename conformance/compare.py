"""When two rows are the same, when they are not, and when the question was too weak to count.

Tiers (contract, Exactness): integer-valued models bitwise; float64 to a relative error of 1e-9, on rows where
the adapters differ by at least 1000 times that; in low precision a run may be at most a few times as far from the
float64 truth as the rows run alone in that precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping, Sequence

FLOAT64_TOLERANCE = 1e-9
POWER = 1000.0
LOW_PRECISION_FACTOR = 4.0
LOW_PRECISION_POWER = 10.0


class Mismatch(AssertionError):
    """A row is not what it should be."""


class Vacuous(AssertionError):
    """The adapters are so alike on a row that a wrong answer would have passed."""


class Inapplicable(Exception):
    """The check has nothing to say here: not even the rows alone can be run this way."""


class Declined(Exception):
    """The call is refused by name and without a trace, as the clause allows: nothing is wrong, and nothing shown."""


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
    separation = separation_of(expected, others)
    if others and (separation <= 0.0 or separation < tier.least_separation):
        closest = min(others, key=lambda name: _distance(expected, others[name]))
        raise Vacuous(
            f"the row differs from {closest!r}'s by {separation:.1e} only, but should by {tier.least_separation:.0e} "
            f"for the comparison to count [{where}]. Make the adapters stronger or less alike"
        )
    return Evidence(worst, separation)


def low_precision_error(rows: Mapping[Any, Mapping[str, Any]], truth: Mapping[Any, Mapping[str, Any]]) -> float:
    """Return how far a run in low precision is from the float64 `truth`: the worst output's relative error.

    Root mean square over all rows of an output, whose largest single error is a matter of chance; both by the same
    keys, one for each row.

    Raises:
        Inapplicable: no output holds floating-point numbers, which alone have a precision.
    """
    import torch

    errors = []
    for path, first in next(iter(truth.values())).items():
        if first.is_floating_point():
            want = torch.cat([tensors[path].flatten() for tensors in truth.values()])
            have = torch.cat([rows[key][path].double().flatten() for key in truth])
            errors.append(float((have - want).norm() / want.norm().clamp(min=torch.finfo(want.dtype).tiny)))
    if not errors:
        raise Inapplicable("no output holds floating-point numbers, so that none has a precision")
    return max(errors, key=lambda error: (error != error, error))


def compare_in_low_precision(observed: float, alone: float, separation: float, step: float, where: str) -> Evidence:
    """Compare the error of a mixed run in low precision with that of the rows run alone in that precision.

    Args:
        observed, alone: the runs' errors against float64, as `low_precision_error` gives them.
        separation: the least relative distance between adapters on a row.
        step: one rounding step of the precision, relative to 1.

    Raises:
        Mismatch: the mixed run is more than LOW_PRECISION_FACTOR times as far from the truth.
        Vacuous: the adapters lie within LOW_PRECISION_POWER times what is allowed.
    """
    allowed = LOW_PRECISION_FACTOR * max(alone, step)
    if not observed <= allowed:  # nan is no answer either
        raise Mismatch(
            f"the mixed run is {observed:.1e} from the float64 truth, but should be at most {allowed:.1e}, "
            f"{LOW_PRECISION_FACTOR:g} times what the rows alone are in that precision [{where}]"
        )
    if separation < LOW_PRECISION_POWER * allowed:
        raise Vacuous(f"adapters differ by {separation:.1e}, but rounding allows {allowed:.1e} [{where}]")
    return Evidence(observed, separation)


def separation_of(row: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]]) -> float:
    """Return how near the nearest other adapter's row comes to `row`, by the output that tells them best apart."""
    return min((_distance(row, other) for other in others.values()), default=float("inf"))


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
