"""What a planted defect is: how to plant it, the model it shows on, and the check that must see it."""

from typing import Any, Callable, NamedTuple

import shim.routing.route
from shim.batch import MixedBatch
from shim.errors import Unroutable

ANY, SPLIT, ONE_PASS = "any route", "split", "one pass"


class Fault(NamedTuple):
    plant: Callable[[Any], None]
    model: str
    check: str
    route: str


FAULTS = {}


def fault(*about):
    """Register a function that plants a defect: (route,) model, check."""
    *route, model, check = about

    def register(plant):
        FAULTS[plant.__name__] = Fault(plant, model, check, route[0] if route else ANY)
        return plant

    return register


def force(route, patch):
    """Let every call take `route`."""
    if route == SPLIT:

        def unroutable(*_):
            raise Unroutable("one pass is switched off")

        patch.setattr(shim.routing.route, "run_one_pass", unroutable)
        patch.setattr(shim.routing.route, "run_one_pass_generate", unroutable)


def answering(patch, change):
    """Let every selection be what `change(batch, adapter)` says instead of the adapter asked for."""
    original = MixedBatch.selection
    patch.setattr(MixedBatch, "selection", lambda batch, adapter: original(batch, change(batch, adapter)))
