"""Defects in installing the shim twice, and in putting back what it displaced."""

import sys

import shim
import shim.patch
from tests.faults.planted import fault

REINSTALLING = "reinstalling_changes_nothing"


@fault("bert", REINSTALLING)
def installing_twice_wraps_twice(patch):
    module = sys.modules["shim.install"]  # `shim.install` is the function
    decide, install, decided = module._decide, shim.install, {}

    def once(one):
        if one.name not in decided:
            decided[one.name] = decide(one)
        return decided[one.name]

    def install_anew(**options):
        module._INSTALLED = None
        return install(**options)

    patch.setattr(module, "_decide", once)
    patch.setattr(shim, "install", install_anew)


@fault("bert", REINSTALLING)
def uninstalling_leaves_the_first_replacement(patch):
    original = shim.patch.Applied._take_back
    patch.setattr(shim.patch.Applied, "_take_back", lambda applied, keep: original(applied, keep + 1))
