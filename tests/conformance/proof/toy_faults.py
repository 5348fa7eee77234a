"""Two toys: one that its check sees, and one that is none, so that nothing can."""

import shim.batch
from tests.faults.planted import fault


@fault("integers", "each_row_equals_its_own_run")
def the_names_are_read_backwards(patch):
    original = shim.batch._names
    patch.setattr(shim.batch, "_names", lambda names: original(names)[::-1])


@fault("integers", "each_row_equals_its_own_run")
def nothing_at_all(patch):
    pass
