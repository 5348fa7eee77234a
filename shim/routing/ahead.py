"""Plans made before the first request, and kept beside a checkpoint."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Sequence, Union

from shim.errors import PlanError
from shim.modules import base_model_of
from shim.routing.explain import Explanation, explain
from shim.routing.inputs import Inputs, sample_count, sample_rules, take
from shim.routing.plan import Plan, from_json, to_json
from shim.routing.plans import store_of
from shim.selection import BASE
from shim.versions import installed

FORMAT = 3


def plan_ahead(
    model: Any,
    inputs: Mapping[str, Any],
    batch_sizes: Optional[Sequence[int]],
    owners: Optional[Mapping[str, Any]],
) -> Dict[int, Explanation]:
    """Make the plan of `model(**inputs)` for every batch size; see `shim.plan`."""
    given = Inputs.of((), dict(inputs), ())
    count = sample_count(model, given, owners or {})
    sizes = list(batch_sizes or [count])
    if not count:
        raise PlanError("the inputs are no example: they should be tensors with one sample or more along dim 0")
    if owners:
        if set(sizes) != {count}:
            raise PlanError(
                f"batch_sizes is {sizes}, but should be [{count}], the samples of these owners. Plan each batch size "
                "with inputs and owners of its own"
            )
        return {count: explain(model, inputs, _names(model, count), owners=owners)}
    rules = sample_rules(given, count, {})
    found = {}
    for size in sizes:
        some = take(given, [row % count for row in range(size)], rules).values
        found[size] = explain(model, some, _names(model, size))
    return found


def save(model: Any, path: Union[str, os.PathLike[str]]) -> int:
    """Write the plans of `model` as JSON and return their number; see `shim.save_plans`."""
    store = store_of(model)
    exact, families = [
        [(key, value) for key, value in list(held.items()) if _means_the_same_elsewhere(key)]
        for held in (store.exact, store.families)
    ]
    plans = [[key, to_json(value)] for key, value in exact if isinstance(value, Plan)]
    general = [[key, to_json(family.general)] for key, family in families if family.general]
    data = {"format": FORMAT, "fingerprint": fingerprint(model), "plans": plans, "general": general}
    Path(path).write_text(json.dumps(data), encoding="utf-8")
    return len(plans)


def load(model: Any, path: Union[str, os.PathLike[str]]) -> int:
    """Add the plans in the file at `path` to those of `model` and return their number; see `shim.load_plans`."""
    data = _read(path)
    expected = fingerprint(model)
    if data.get("format") != FORMAT or data.get("fingerprint") != expected:
        raise PlanError(
            f"{path} has plans of format {data.get('format')} for the model {data.get('fingerprint')}, but should be "
            f"of format {FORMAT} for {expected}: another model, or other versions. Make them again with shim.plan"
        )
    store = store_of(model)
    for key, plan in data["plans"]:
        store.keep(_tuples(key), from_json(plan))
    for key, plan in data["general"]:
        store.keep_general(_tuples(key), from_json(plan))
    return len(data["plans"])


def _read(path: Union[str, os.PathLike[str]]) -> Any:
    """Return what is in the file.

    Raises:
        PlanError: it is none that `save` wrote, or was cut short.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise PlanError(
            f"{path} is not JSON ({error}), but should be a file that shim.save_plans wrote. Make it again"
        ) from error
    if not isinstance(data, dict):
        raise PlanError(f"{path} holds a {type(data).__name__}, but should be a file that shim.save_plans wrote")
    return data


def fingerprint(model: Any) -> str:
    """Return a digest of what plans hang on beyond a call: modules, configuration, versions."""
    base = base_model_of(model)
    config = getattr(base, "config", None)
    about = [
        [str(installed(name)) for name in ("torch", "transformers", "peft")],
        [[name, type(module).__qualname__] for name, module in base.named_modules() if "lora_" not in name],
        [[name, list(value.shape)] for name, value in base.named_parameters() if "lora_" not in name],
        str(config),
    ]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]


def _means_the_same_elsewhere(key: Any) -> bool:
    """Whether a key is made of values alone; hooks and forwards on modules are those of this process."""
    if isinstance(key, tuple):
        return all(map(_means_the_same_elsewhere, key))
    return key is None or isinstance(key, (str, int, float))


def _names(model: Any, size: int) -> Sequence[str]:
    """Return names for a batch of `size`, two of them distinct; a plan is the same for all names."""
    first = next(iter(model.peft_config))
    return [first if row % 2 == 0 else BASE for row in range(size)]


def _tuples(key: Any) -> Any:
    """Return a key as it was before JSON made lists of its tuples."""
    return tuple(_tuples(one) for one in key) if isinstance(key, list) else key
