"""Defects in taking back what a load that failed has done."""

import shim.patches.failed_load
from tests.faults.planted import fault


@fault("bert", "an_adapter_that_failed_to_load_is_not_there")
def an_adapter_stays_that_failed_to_load(patch):
    patch.setattr(shim.patches.failed_load, "_refill", lambda container, content: None)


@fault("bert", "an_adapter_that_failed_to_load_is_not_there")
def what_a_failed_load_wrote_over_an_adapter_stays(patch):
    patch.setattr(shim.patches.failed_load, "_is_of", lambda adapter, name: False)
