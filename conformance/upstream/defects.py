"""Every upstream defect on record."""

from __future__ import annotations

from typing import Tuple

from conformance.upstream.defect import Defect

DEFECTS: Tuple[Defect, ...] = ()
