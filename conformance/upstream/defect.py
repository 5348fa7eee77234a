"""One thing known to be wrong: in which versions, and where the suite sees it. Upstream's are on record beside this."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable, Mapping, Optional, Sequence, Tuple, Union

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from conformance.verdict import Verdict

if TYPE_CHECKING:
    from conformance.expected import Named
    from conformance.models import Model

Where = Callable[["Model"], bool]


@dataclass(frozen=True)
class Sighting:
    """Checks that a defect makes fail, on which models, and what their verdicts then say.

    says: a regular expression found in the detail. certain: whether the verdict always fails; where it may pass as
    well, as with threads, the defect is seen somewhere in the run all the same.
    """

    checks: Tuple[str, ...]
    models: Where
    says: str
    certain: bool = True

    def covers(self, model: Model, check: str) -> bool:
        """Whether this check is expected to fail on this model."""
        return check in self.checks and self.models(model)

    def sees(self, verdict: Verdict) -> bool:
        """Whether the verdict is on a pair that this covers; never on a model that the suite does not know."""
        from conformance.models import MODELS

        model = MODELS.get(verdict.model)
        return model is not None and self.covers(model, verdict.check)

    def explains(self, verdict: Verdict) -> bool:
        """Whether a verdict of a covered pair says what this defect makes it say."""
        return re.search(self.says, verdict.detail, re.DOTALL) is not None


@dataclass(frozen=True, eq=False)
class Defect:
    """One defect as data: upstream's, or one that a user expects (`conformance.expected`).

    affected: for each distribution the versions that have it; all must hold. `upstream` names the pull request or
    issue, and what it did about it; of a user's, the line of their file.
    """

    name: str
    said: str
    upstream: str
    affected: Mapping[str, str]
    seen: Tuple[Union[Sighting, Named], ...]

    def is_in(self, packages: Mapping[str, str]) -> bool:
        """Whether an environment of these versions has the defect; False where a version is unknown."""
        return all(_inside(packages.get(name), versions) for name, versions in self.affected.items())


def explaining(verdict: Verdict, defects: Sequence[Defect]) -> Tuple[Defect, ...]:
    """Return those of `defects` that make this check fail on this model, and fail with what the verdict says."""
    return tuple(one for one in defects if any(seen.sees(verdict) and seen.explains(verdict) for seen in one.seen))


def _inside(version: Optional[str], versions: str) -> bool:
    """Whether a version lies in a range; builds and pre-releases count as the release that they lead to."""
    try:
        return version is not None and SpecifierSet(versions).contains(Version(Version(version).base_version))
    except InvalidVersion:
        return False
