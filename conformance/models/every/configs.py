"""Shrinking: the default configuration of any class, made tiny, with what must agree still agreeing."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import re
from typing import Any, Dict, List, Mapping

from conformance.models.every.facts import configuration_facts
from conformance.models.every.sizes import (
    EXPERTS,
    EXPERTS_PER_TOKEN,
    HEAD_WIDTH,
    HEADS,
    IMAGE,
    INNER,
    LAYERS,
    VOCABULARY,
    picked,
    small,
)

FIRST_WORD, FIRST_SPECIAL = 20, VOCABULARY - 50
"""Ids of words lie from FIRST_WORD to FIRST_SPECIAL; below and above are special tokens."""

IMAGE_TOKEN, AUDIO_TOKEN, VIDEO_TOKEN = FIRST_SPECIAL, FIRST_SPECIAL + 1, FIRST_SPECIAL + 2
"""Placeholders for configurations that leave them open."""

MOST_KINDS = 4
"""Layers of so many kinds are kept, one of each; of more kinds, the first."""

_FILLED = {
    "head_dim": HEAD_WIDTH,
    "vocab_size": VOCABULARY,
    "num_experts": EXPERTS,
    "n_routed_experts": EXPERTS,
    "num_experts_per_tok": EXPERTS_PER_TOKEN,
    "top_k_experts": EXPERTS_PER_TOKEN,
    "moe_intermediate_size": INNER,
    "num_key_value_heads": HEADS,
    "n_shared_experts": 1,
    "image_token_id": IMAGE_TOKEN,
    "image_token_index": IMAGE_TOKEN,
    "audio_token_id": AUDIO_TOKEN,
    "audio_token_index": AUDIO_TOKEN,
    "video_token_id": VIDEO_TOKEN,
    "video_token_index": VIDEO_TOKEN,
}
"""Fields that some published configurations leave open though the model needs them."""

_TOKEN = re.compile(r".*token(_(id|index)|_type_id)?s?|.*_(token|mask|unk|pad)_(id|index)|lang_id")
_LAYER_COUNT = re.compile(r"(num_|n_)?(hidden_)?layers?|depth|num_hidden_layers")
_LAYER_PLACES = re.compile(r".*(_indexes|_indices|_layer_ids|_idxs|extract_layers|_hook_ids|_layers_idx|_blocks)")


class TokenIds:
    """Special tokens by their published ids: each gets one small id, the same in every nested configuration."""

    def __init__(self) -> None:
        self._given: Dict[int, int] = {}

    def small(self, value: Any) -> Any:
        """Return the small id of `value`; lists of ids item by item."""
        if isinstance(value, (list, tuple)):
            return type(value)(self.small(item) for item in value)
        if isinstance(value, bool) or not isinstance(value, int) or value < FIRST_WORD:
            return value
        return self._given.setdefault(value, VOCABULARY - 1 - len(self._given) % 40)


def tiny(config_class: Any, name: str = "") -> Any:
    """Return a tiny configuration of the class, with the facts of the entry called `name` on top."""
    start = configuration_facts(config_class.model_type).get("start", {})
    return _rebuilt(config_class(**copy.deepcopy(start)), TokenIds(), name)


def nested(config: Any) -> Dict[str, Any]:
    """Return the configurations directly inside of `config`, by the name of their field."""
    return {name: value for name, value in vars(config).items() if _is_config(value)}


def everywhere(config: Any) -> List[Any]:
    """Return `config` and every configuration inside it, outer ones first."""
    found = [config]
    for inner in nested(config).values():
        found += everywhere(inner)
    return found


def _rebuilt(config: Any, ids: TokenIds, entry: str = "") -> Any:
    """Return a new configuration of `config`'s class from its shrunk fields, so that derived ones are derived anew."""
    kind = type(config).model_type or type(config).__name__
    facts = copy.deepcopy({**configuration_facts(kind), **configuration_facts(entry)})
    facts.pop("start", None)
    fields: Dict[str, Any] = {}
    default = _default(config)
    for name in _field_names(type(config)):
        value = _field(config, name)
        if _is_config(value):
            inner = _rebuilt(value, ids)
            # transformers < 5 makes nested configurations from dictionaries only
            fields[name] = inner if dataclasses.is_dataclass(type(config)) else inner.to_dict()
        elif value is None:
            fields.update({name: _FILLED[name]} if name in _FILLED else {})
        elif _TOKEN.fullmatch(name) and not name.startswith(("num_", "max_", "n_")):
            _note(fields, name, value, ids.small(value), default)
        else:
            _note(fields, name, value, small(name, value), default)
    fields.update(_layer_fields(config))
    _agree(config, fields)
    for name in ("rope_parameters", "rope_scaling"):
        rope = getattr(config, name, None)
        if isinstance(rope, dict):
            _note(fields, name, rope, _rope(rope, {**vars(config), **fields}), default)
    fields.update(_backbone_fields(config, fields))
    fields.update(facts)
    if any(name in ("num_labels", "id2label") for name in _field_names(type(config))):
        fields.update(num_labels=fields.get("num_labels", 3))
        fields.pop("id2label", None)
        fields.pop("label2id", None)
    return _sectioned(type(config)(**fields))


def _note(fields: Dict[str, Any], name: str, before: Any, after: Any, default: Any) -> None:
    """Keep `after` where it differs from the field's default: one that stays must be derived anew, not copied."""
    if after != before or before != _field(default, name):
        fields[name] = after


def _agree(config: Any, fields: Dict[str, Any]) -> None:
    """Mend what a rule for one field cannot see: heads without groups, widths that double, many small patches."""
    heads, groups = _field(config, "num_attention_heads"), _field(config, "num_key_value_heads")
    if heads is not None and heads == groups and "num_key_value_heads" in _field_names(type(config)):
        fields["num_key_value_heads"] = fields.get("num_attention_heads", heads)
    if _whole(_field(config, "embed_dim")) and isinstance(_field(config, "depths"), (list, tuple)):
        fields["embed_dim"] = HEAD_WIDTH  # it doubles from stage to stage
    patch = fields.get("patch_size", _field(config, "patch_size"))
    for name in ("image_size", "img_size"):
        if fields.get(name) == IMAGE and not (_whole(patch) and patch > 4):
            fields[name] = 2 * IMAGE


def _layer_fields(config: Any) -> Dict[str, Any]:
    """Return the fields that count, list or point at layers: two layers, or one of each kind that is listed."""
    names = _field_names(type(config))
    counts = {n: v for n in names for v in [_field(config, n)] if _LAYER_COUNT.fullmatch(n) and _whole(v)}
    if not counts:
        return {}
    before = max(counts.values())
    listed = {name: value for name in names for value in [_field(config, name)] if _lists_layers(value, before)}
    kinds = list(zip(*listed.values()))
    layers = max([LAYERS, *(len(picked(kinds)[:MOST_KINDS]),)]) if listed else min(LAYERS, before)
    places = {name: _field(config, name) for name in names if _LAYER_PLACES.fullmatch(name)}
    places = {name: value for name, value in places.items() if _points_at_layers(value)}
    layers = max([layers, *(min(len(value), MOST_KINDS) for value in places.values())])
    fields: Dict[str, Any] = {name: layers for name, value in counts.items() if value == before}
    chosen = picked(kinds, layers)[:layers] if listed else []
    for position, (name, value) in enumerate(listed.items()):
        fields[name] = small(name, type(value)(kind[position] for kind in chosen))
    for name, value in places.items():
        fields[name] = type(value)(_moved(value, layers, before))
    return fields


def _lists_layers(value: Any, layers: int) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == layers and layers > LAYERS and not _nested_list(value)


def _nested_list(value: Any) -> bool:
    return any(isinstance(item, (list, tuple, dict)) for item in value)


def _points_at_layers(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(_whole(item) for item in value)


def _moved(places: Any, layers: int, before: int) -> List[int]:
    """Return indices into `layers` layers for those into `before`: the last few, in order, each once."""
    if len(places) > layers:
        return list(range(layers))
    offset = 1 if max(places) >= before else 0
    return [layers - len(places) + index + offset for index in range(len(places))]


def _rope(rope: Mapping[str, Any], fields: Mapping[str, Any]) -> Dict[str, Any]:
    """Return rotary parameters whose sections and factors fit the small heads."""
    if rope and all(isinstance(value, dict) or value is None for value in rope.values()):
        return {kind: value if value is None else _rope(value, fields) for kind, value in rope.items()}
    found = dict(rope)
    half = _frequencies(found, fields)
    for name, value in found.items():
        if name.endswith("section") and isinstance(value, (list, tuple)):
            found[name] = _sections(half, len(value))
        elif isinstance(value, (list, tuple)) and len(value) > half and name.endswith("factor"):
            found[name] = list(value[:half])
        elif name == "original_max_position_embeddings":
            found[name] = 64
    return found


def _sectioned(config: Any) -> Any:
    """Give a configuration whose model divides its rotary frequencies by kind of position small sections."""
    rope = getattr(config, "rope_parameters", None)
    if isinstance(rope, dict) and "mrope_section" in (getattr(config, "ignore_keys_at_rope_validation", None) or ()):
        kinds = list(rope.values()) if rope and all(isinstance(value, dict) for value in rope.values()) else [rope]
        for parameters in kinds:
            parameters["mrope_section"] = _sections(_frequencies(parameters, vars(config)), 3)
    return config


def _frequencies(rope: Mapping[str, Any], fields: Mapping[str, Any]) -> int:
    """Return how many rotary frequencies a small head has."""
    part = rope.get("partial_rotary_factor") or fields.get("partial_rotary_factor") or 1.0
    return max(1, int((fields.get("qk_rope_head_dim") or HEAD_WIDTH) * part) // 2)


def _sections(total: int, parts: int) -> List[int]:
    """Return `parts` whole numbers, as equal as can be, whose sum is `total`."""
    return [total // parts + (index < total % parts) for index in range(parts)]


def _backbone_fields(config: Any, fields: Mapping[str, Any]) -> Dict[str, Any]:
    """Return which stages a backbone gives out: as many as before, the last of the layers it has now."""
    given, stages = getattr(config, "out_indices", None), getattr(config, "stage_names", None)
    if not given or not stages or len(given) == 1:
        return {}
    layered = "num_hidden_layers" in _field_names(type(config)) and len(stages) == config.num_hidden_layers + 1
    if not layered:
        return {"out_features": list(config.out_features)}
    layers = max(len(given), fields.get("num_hidden_layers", LAYERS))
    return {"num_hidden_layers": layers, "out_indices": list(range(layers - len(given) + 1, layers + 1))}


def _default(config: Any) -> Any:
    """Return the configuration of `config`'s class that nothing was said of; `config` where there is none."""
    try:
        return type(config)()
    except Exception:
        return config


def _field_names(config_class: Any) -> List[str]:
    """Return the names of the arguments that make a configuration, most general first."""
    if dataclasses.is_dataclass(config_class):  # transformers >= 5
        generic = {field.name for field in dataclasses.fields(_root(config_class))}
        return [f.name for f in dataclasses.fields(config_class) if f.name not in generic or f.name == "num_labels"]
    parameters = inspect.signature(config_class.__init__).parameters.values()
    return [p.name for p in parameters if p.name != "self" and p.kind is not p.VAR_KEYWORD]


def _field(config: Any, name: str) -> Any:
    """Return a field of `config`; where layers have one each, the one that holds for all others."""
    try:
        return getattr(config, name, None)
    except RuntimeError:  # transformers' AmbiguousGlobalPerLayerAttributeError
        return vars(config).get(name)


def _root(config_class: Any) -> Any:
    """Return the class that all configurations derive from, under whichever name it has."""
    return next(base for base in config_class.__mro__[::-1] if base.__name__.lower() == "pretrainedconfig")


def _is_config(value: Any) -> bool:
    return any(base.__name__.lower() == "pretrainedconfig" for base in type(value).__mro__)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
