"""Defects in who owns the rows of beams, each where the number of beams comes from another place."""

import shim.routing.generate_one_pass
from shim.routing.generate_rows import UnitRows
from tests.faults.planted import ONE_PASS, fault


def beams_tiled(patch, is_told):
    """Let rows of beams be taken for tiles of the batch where `is_told(batch, values)`: that there are beams."""
    original = shim.routing.generate_one_pass._units

    def units(function, batch, inputs, owners):
        found = original(function, batch, inputs, owners)
        if not is_told(batch, inputs.values):
            return found
        samples = len(batch.names)
        return {
            key: UnitRows(tuple(row % samples for row in range(len(known.rows))), known.owners)
            for key, known in found.items()
        }

    patch.setattr(shim.routing.generate_one_pass, "_units", units)


def has_beams(settings):
    return (getattr(settings, "num_beams", 1) or 1) > 1


@fault(ONE_PASS, "llama", "beams_by_keyword_are_the_rows_own")
def beams_by_keyword_are_tiled(patch):
    beams_tiled(patch, lambda batch, values: "num_beams" in values)


@fault(ONE_PASS, "llama", "beams_by_generation_config_are_the_rows_own")
def beams_by_generation_config_are_tiled(patch):
    beams_tiled(patch, lambda batch, values: has_beams(values.get("generation_config")))


@fault(ONE_PASS, "llama", "beams_of_the_models_own_config_are_the_rows_own")
def beams_of_the_models_own_config_are_tiled(patch):
    beams_tiled(patch, lambda batch, values: has_beams(batch.model.generation_config))
