"""How a fault is planted in the shim: the model it shows on, the check that must see it, and the route of the calls."""

from functools import partial

import shim.routing.route
from conformance.proof.fault import FAULTS, Fault
from conformance.verdict import Outcome
from shim.batch import MixedBatch
from shim.routing.one_pass import NotByLayers

ANY, SPLIT, ONE_PASS = "any route", "split", "one pass"


def fault(*about, outcome=Outcome.FAIL):
    """Register a function that plants a defect: (route,) model, check; or a test's node id for one of the suite."""
    *route, model, check = about if len(about) > 1 else ("the suite", "", *about)
    way = route[0] if route else ANY

    def register(plant):
        FAULTS[plant.__name__] = Fault(plant.__name__, plant, check, model, way, partial(force, way), outcome)
        return plant

    return register


def force(route, patch):
    """Let every call take `route`."""
    if route == SPLIT:

        def unroutable(*_):
            raise NotByLayers("one pass is switched off")

        patch.setattr(shim.routing.route, "run_one_pass", unroutable)
        patch.setattr(shim.routing.route, "run_one_pass_generate", unroutable)


def answering(patch, change):
    """Let every selection be what `change(batch, adapter)` says instead of the adapter asked for."""
    original = MixedBatch.selection
    patch.setattr(MixedBatch, "selection", lambda batch, adapter: original(batch, change(batch, adapter)))
