"""The split route for `generate`: every row generates as it would alone.

Each sub-call is an ordinary `generate` of one adapter, so greedy search, sampling, beams however given
(keyword, `generation_config`, the model's own), `num_return_sequences`, guidance and caches are the model's
own. It has all rows of its adapter where a rehearsal of two tokens shows that the model keeps them apart, and
one row where it does not. Sequences are padded to one length on the right, as transformers pads.

Source for the layout of the outputs: transformers, `GenerateDecoderOnlyOutput` and its siblings: every tensor
has dim 0 of samples x beams (or x returned sequences), sample-major.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence

import torch
import transformers
from packaging.version import Version

from shim.batch import Group, MixedBatch, by_row
from shim.errors import RefusedError
from shim.modules import base_model_of
from shim.routing.assemble import LayoutChanged, assemble, in_row_order
from shim.routing.inputs import PER_SAMPLE, SHARED, Inputs, check_known, quantises, root_name, sample_rules, take
from shim.routing.layout import CONSTANT, ROWS, Rule
from shim.routing.layout import SHARED as ONE_FOR_ALL
from shim.routing.other_threads import carried_to_threads
from shim.routing.processors import check_divides
from shim.routing.rehearsal import layout_for
from shim.routing.rows import RowRule
from shim.routing.sampling import generating
from shim.routing.trace import Owners
from shim.routing.tree import by_path, replace_state
from shim.selection import select

_NOT_REHEARSED = (
    "max_length min_length min_new_tokens max_time streamer stopping_criteria logits_processor generation_config "
    "num_beam_groups diversity_penalty penalty_alpha constraints force_words_ids assistant_model "
    "prompt_lookup_num_tokens assistant_early_exit prefix_allowed_tokens_fn cache_implementation "
    "early_stopping length_penalty temperature top_k top_p min_p typical_p epsilon_cutoff eta_cutoff"
).split()
_ONE_ROW_AT_A_TIME = ("assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit")
"""Settings by which transformers generates one row a call."""

_GREEDY = {
    "do_sample": False,
    "num_beams": 1,
    "num_return_sequences": 1,
    "return_dict_in_generate": True,
    "output_scores": True,
}


# Breakpoint: huggingface/transformers#35802, transformers 4.50, brought beams of which one row's outlive another's;
# huggingface/transformers#38778, 4.54, ends each row by itself.
_BEAMS_MEET = Version("4.50") <= Version(transformers.__version__) < Version("4.54.0.dev0")


def run_split_generate(function: Callable[..., Any], batch: MixedBatch, inputs: Inputs, owners: Owners) -> Any:
    """Generate each adapter's rows by `function`, and put the sequences back in row order.

    Raises:
        RefusedError: the inputs do not divide by sample, or an output cannot be put together.
    """
    check_known(inputs)
    check_divides(inputs)
    if why_row_by_row(batch, inputs):
        batch = by_row(batch)
    rules = sample_rules(inputs, len(batch.names), owners)
    if not _keeps_rows_apart(function, batch, inputs, owners, rules):
        batch = by_row(batch)
    outputs, caches = [], []
    for group in batch.groups:
        part = _with_sample_indices(take(inputs, group.rows, rules), group)
        selection, own = select(batch.selection(group.adapter)), _own_static_cache(batch.model)
        with selection, carried_to_threads(), own, generating(group.rows):
            outputs.append(part.call(function))
        caches.append(part.caches())
    result = _put_together(outputs, batch, inputs)
    for name, cache in inputs.caches().items():
        replace_state(cache, _by_documented_layout([c[name] for c in caches], batch.groups))
    return result


def why_row_by_row(batch: MixedBatch, inputs: Inputs) -> str:
    """Return why even two rows of one adapter are not what each is alone, or not generated at all; else nothing.

    transformers guesses tokens ahead (an assistant, the prompt) for a batch of one. A quantised cache may scale the
    states of a row by those of others (`Fp8QuantizedLayer`, HQQ's groups), under whatever adapter.
    """
    if any(_setting(name, batch, inputs) is not None for name in _ONE_ROW_AT_A_TIME):
        return "guesses ahead are made for one row a call"
    if _setting("cache_implementation", batch, inputs) == "quantized":
        return "a quantised cache may scale a row by others"
    beams, stopping = (_setting(name, batch, inputs) for name in ("num_beams", "early_stopping"))
    if _BEAMS_MEET and (beams or 1) > 1 and not stopping:
        return (
            f"the beam search of transformers {transformers.__version__} goes on past a row's end while another row is "
            "not done; early_stopping=True ends each by itself"
        )
    return ""


@contextmanager
def _own_static_cache(model: Any) -> Iterator[None]:
    """Let a sub-batch have a static cache of its own: generate keeps one on the model for calls to come."""
    # Breakpoint: transformers 4.42 makes another where the batch is of another size; before, a smaller batch gets the
    # larger cache, and fails.
    kept = vars(base_model_of(model))
    before = kept.pop("_static_cache", None)
    try:
        yield
    finally:
        kept.pop("_static_cache", None)
        if before is not None:
            kept["_static_cache"] = before


def _keeps_rows_apart(
    function: Callable[..., Any], batch: MixedBatch, inputs: Inputs, owners: Owners, rules: Mapping[str, RowRule]
) -> bool:
    """Whether rows of one adapter generate together what they do alone, as far as two tokens of the base model show.

    Raises:
        RefusedError: the inputs do not divide by sample, as documented or as one token of the base model shows.
    """
    single = all(len(group.rows) == 1 for group in batch.groups)
    if all(root_name(path) in PER_SAMPLE | SHARED for path in inputs.tensors()):
        _check_documented(batch, inputs, rules)
        return single or _rehearsed(function, batch, inputs, owners)
    if single or not _rehearsed(function, batch, inputs, owners):
        _rehearse(1, function, batch, inputs, owners)
        return single
    return True


def _check_documented(batch: MixedBatch, inputs: Inputs, rules: Mapping[str, RowRule]) -> None:
    odd = {
        path: tuple(tensor.shape)
        for path, tensor in inputs.tensors().items()
        if path not in rules and root_name(path) in PER_SAMPLE and tensor.dim() > 1 and tensor.shape[0] != 1
    }
    if odd:
        raise RefusedError(
            f"inputs {odd} should have {len(batch.names)} samples along dim 0. Pass every input with samples "
            "along dim 0, or run one adapter a call"
        )


def _rehearsed(function: Callable[..., Any], batch: MixedBatch, inputs: Inputs, owners: Owners) -> bool:
    """Whether two tokens show that samples stay apart; a model that raises in them shows nothing."""
    try:
        _rehearse(2, function, batch, inputs, owners)
    except (MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception:
        return False
    return True


def _rehearse(tokens: int, function: Callable[..., Any], batch: MixedBatch, inputs: Inputs, owners: Owners) -> None:
    """Generate a few tokens of the batch whole and in parts, and compare the scores; a second comes out of the cache.

    Raises:
        RefusedError: the batch does not divide by sample, or this cannot be seen.
    """

    def run(part: Inputs) -> Dict[str, Any]:
        with _own_static_cache(batch.model):
            scores = getattr(part.call(function), "scores", None)
        if scores is None:
            raise RefusedError(
                f"inputs {sorted(map(root_name, inputs.tensors()))} are not all known to be one entry per sample, "
                "and this model's generate returns no scores to prove it by. Run one adapter a call"
            )
        return {"scores": scores}

    values = {name: value for name, value in inputs.values.items() if name not in _NOT_REHEARSED}
    short = Inputs({**values, **_GREEDY, "max_new_tokens": tokens}, inputs.positional)
    layout_for(run, batch, short, owners, "generate")


def _with_sample_indices(part: Inputs, group: Group) -> Inputs:
    """Give a `prefix_allowed_tokens_fn` the caller's sample indices rather than the sub-batch's."""
    allowed = part.values.get("prefix_allowed_tokens_fn")
    if allowed is None:
        return part
    values = {**part.values, "prefix_allowed_tokens_fn": lambda i, tokens: allowed(group.rows[i], tokens)}
    return Inputs(values, part.positional)


def _put_together(outputs: List[Any], batch: MixedBatch, inputs: Inputs) -> Any:
    groups = batch.groups
    if all(isinstance(output, torch.Tensor) for output in outputs):
        return _sequences(outputs, groups, batch, inputs)
    if not all(isinstance(output, dict) and "sequences" in output for output in outputs):
        raise RefusedError(
            f"generate returned a {type(outputs[0]).__name__}, whose rows are not known. Ask for a tensor of "
            "sequences (return_dict_in_generate=False), or run one adapter a call"
        )
    if quantises(outputs[0].get("past_key_values")):
        raise RefusedError(
            f"generate returned a {type(outputs[0]['past_key_values']).__name__} for each row, which cannot be put "
            "together: each is quantised by scales of its own. Ask for sequences only (return_dict_in_generate=False), "
            "or run one row a call"
        )
    special: Dict[str, Any] = {"sequences": _sequences([o["sequences"] for o in outputs], groups, batch, inputs)}
    if outputs[0].get("beam_indices") is not None:
        rebased = [_rebase(o["beam_indices"], g, _beams(o, g, batch, inputs)) for o, g in zip(outputs, groups)]
        special["beam_indices"] = in_row_order(_padded(rebased, -1), groups, 0)
    rest = [{key: value for key, value in output.items() if key not in special} for output in outputs]
    joined = {**_by_documented_layout(rest, groups), **special}
    return type(outputs[0])(**{key: joined[key] for key in outputs[0]})


def _sequences(parts: List[Any], groups: Sequence[Group], batch: MixedBatch, inputs: Inputs) -> Any:
    if len({part.shape[1:] for part in parts}) > 1:
        pad = _pad_token(batch, inputs)
        if pad is None or parts[0].is_floating_point() or parts[0].dim() != 2:
            raise RefusedError(
                f"the adapters generated outputs of different sizes, {[tuple(p.shape) for p in parts]}, and "
                "there is no token to pad with. Set pad_token_id, or run one adapter a call"
            )
        parts = _padded(parts, pad)
    return in_row_order(parts, groups, 0)


def _padded(parts: List[Any], value: int) -> List[Any]:
    length = max(part.shape[1] for part in parts)
    return [torch.nn.functional.pad(part, (0, length - part.shape[1]), value=value) for part in parts]


def _beams(output: Any, group: Group, batch: MixedBatch, inputs: Inputs) -> int:
    """Return the beams of each sample: as the scores have it, or else the settings."""
    scores = output.get("scores")
    if scores:
        return int(scores[0].shape[0] // len(group.rows))
    return int(_setting("num_beams", batch, inputs) or 1)


def _rebase(beam_indices: Any, group: Group, beams: int) -> Any:
    """Turn rows of the sub-batch's beams into rows of the batch's; -1 stays -1."""
    rows = torch.tensor(group.rows, device=beam_indices.device)
    known = beam_indices.clamp(min=0)
    moved = rows[torch.div(known, beams, rounding_mode="floor")] * beams + known % beams
    return torch.where(beam_indices < 0, beam_indices, moved)


def _by_documented_layout(parts: Sequence[Any], groups: Sequence[Group]) -> Any:
    layout = {path: _documented(leaf) for path, leaf in by_path(parts[0]).items()}
    try:
        return assemble(parts, groups, layout)
    except (LayoutChanged, RefusedError):
        raise RefusedError(
            "the adapters stopped after different numbers of tokens, so scores, states or caches per step do not "
            "stand in one tensor. Ask for sequences only, set min_new_tokens equal to max_new_tokens, or run one "
            "adapter a call"
        ) from None


def _documented(leaf: Any) -> Rule:
    if not isinstance(leaf, torch.Tensor):
        return Rule(CONSTANT)
    # Breakpoint: transformers 5 keeps a cache's sliding window in a tensor, which is one for the batch.
    return Rule(ROWS, 0, single=False) if leaf.dim() else Rule(ONE_FOR_ALL)


def _pad_token(batch: MixedBatch, inputs: Inputs) -> Optional[int]:
    """Return the token that transformers pads with: the pad token, or else the first end token."""
    pad = _setting("pad_token_id", batch, inputs)
    if pad is None:
        pad = _setting("eos_token_id", batch, inputs)
    if isinstance(pad, (list, tuple)):
        pad = pad[0] if pad else None
    return None if pad is None else int(pad)


def _setting(name: str, batch: MixedBatch, inputs: Inputs) -> Any:
    """Return a generation setting as transformers resolves it: keyword, given config, the model's own."""
    if inputs.values.get(name) is not None:
        return inputs.values[name]
    configs = (
        inputs.values.get("generation_config"),
        getattr(batch.model, "generation_config", None),
        getattr(batch.model, "config", None),
    )
    return next((v for v in (getattr(config, name, None) for config in configs) if v is not None), None)
