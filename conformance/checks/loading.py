"""Chapter State: loading what cannot be loaded (S1, F1)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Callable, Dict

from conformance.case import Case, raised_by
from conformance.checks.check import check
from conformance.compare import Evidence, Mismatch
from conformance.scenarios import Draws


@check("S1", "F1", draws=Draws(adapters=(2, 2), rows=(3, 4), saved="none"))
def an_adapter_that_failed_to_load_is_not_there(case: Case) -> Evidence:
    """Does a load of a file that is cut off, or of another width, leave the model as it was, under any name?"""
    model, known = case.peft_model, case.scenario.names[0]
    keys, loaded = set(model.state_dict()), set(model.peft_config)
    for how, spoil in _SPOILED.items():
        for name in ("new", known):
            with tempfile.TemporaryDirectory() as folder:
                _save(model, known, Path(folder), spoil)
                error = raised_by(lambda: model.load_adapter(folder, adapter_name=name))  # noqa: B023
            if error is None:
                raise Mismatch(f"load_adapter took a file that is {how}, but should raise")
            left = (set(model.state_dict()) - keys) | (set(model.peft_config) - loaded)
            if left:
                raise Mismatch(
                    f"after {name!r} failed to load (a file that is {how}) {len(left)} of its parts are left"
                )
    error = raised_by(lambda: case.mixed(["new", *case.rows[1:]]))
    if not isinstance(error, ValueError) or "new" not in str(error):
        raise Mismatch(f"the name of an adapter that failed to load gave {error!r}, but should be refused by name")
    return case.expect_rows(case.mixed(), case.rows)


def _save(model: Any, adapter: str, folder: Path, spoil: Callable[[Any], bytes]) -> None:
    """Write `adapter` to `folder` as PEFT does, its weights spoiled."""
    import peft

    model.peft_config[adapter].save_pretrained(str(folder))
    weights = peft.get_peft_model_state_dict(model, adapter_name=adapter)
    (folder / "adapter_model.safetensors").write_bytes(spoil(weights))


def _cut_off(weights: Dict[str, Any]) -> bytes:
    from safetensors.torch import save

    whole = save({name: value.contiguous() for name, value in weights.items()})
    return bytes(whole[: len(whole) // 2])


def _of_another_width(weights: Dict[str, Any]) -> bytes:
    import torch
    from safetensors.torch import save

    *others, last = weights.items()  # all but the last one fit, and change what they are loaded over
    wide = {last[0]: torch.cat([last[1], last[1]], 0).contiguous()}
    return bytes(save({**{name: (-value).contiguous() for name, value in others}, **wide}))


_SPOILED: Dict[str, Callable[[Dict[str, Any]], bytes]] = {"cut off": _cut_off, "of another width": _of_another_width}
