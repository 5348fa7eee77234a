"""Chapter Heads: each row goes through its own adapter's saved modules, whatever comes and goes (H1-H5, S4)."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Sequence, Tuple

from conformance.case import Case, raised_by
from conformance.checks.check import check, has_rows, saves_modules
from conformance.compare import Evidence, Inapplicable, Mismatch, compare_row
from conformance.footprint import expect_unchanged, footprint
from conformance.outputs import tensors_of
from conformance.scenarios import BASE, Draws
from conformance.subject import base_model, fill, lora_config, with_adapters

if TYPE_CHECKING:
    from conformance.models import Model


def _classifies(model: Model) -> bool:
    return saves_modules(model) and "classifies" in model.tags


def _decodes(model: Model) -> bool:
    return "causal-lm" in model.tags


def _has_an_mlp(model: Model) -> bool:
    """Whether blocks have an `mlp` of linear layers, which they call without keywords."""
    return _decodes(model) and "experts" not in model.tags


def _has_words(model: Model) -> bool:
    return has_rows(model) and bool(model.architecture) and "text" in model.tags


def _has_two_targets(model: Model) -> bool:
    return len(model.targets) > 1 and has_rows(model)


@check("H1", draws=Draws(adapters=(2, 3), rows=(2, 4), saved="all"), applies=saves_modules)
def each_row_uses_its_own_saved_module(case: Case) -> Evidence:
    """Does each row go through its own adapter's saved module, of any type?"""
    return case.expect_rows(case.mixed(), case.rows)


@check("H1", draws=Draws(adapters=(2, 3), rows=(2, 4), saved="none"), applies=_decodes)
def a_saved_attention_fills_its_cache_once(case: Case) -> Evidence:
    """Is each row right, and the cache as long as the prompt, where adapters save an attention, which fills one?"""
    paths = [path.split(".") for path, _ in base_model(case.model, case.device).named_modules()]
    attention = next(path[-1] for path in paths if path[-1] in ("self_attn", "attn"))
    layer = next(target for target in case.model.targets if [attention, target] in (path[-2:] for path in paths))
    # One block's attention is saved, the next one's adapted: a layer that is both is PEFT's own muddle.
    adapters = tuple(
        replace(one, saved=(f"0.{attention}",), targets=(f"1.{attention}.{layer}",)) for one in case.scenario.adapters
    )
    other = Case(case.model, replace(case.scenario, adapters=adapters), case.device)
    error = raised_by(lambda: other.oracle.run(other.scenario.names[0]))
    if isinstance(error, TypeError) and "missing 1 required positional argument" in str(error):
        # peft 0.13 to 0.19 call no saved module by keywords, as Llama calls its attention
        raise Inapplicable(f"upstream fails on one adapter alone: {error}")
    output = other.mixed()
    held, length = _tokens_held(output.past_key_values), case.inputs["input_ids"].shape[1]
    if held != length:
        raise Mismatch(f"the cache holds {held} tokens, but should {length}: it was filled by more than one run")
    return other.expect_rows(output, other.rows)


@check("H2", "R6", draws=Draws(adapters=(2, 3), rows=(3, 4), saved="none"), applies=_has_an_mlp)
def rows_of_adapters_inside_a_saved_module_are_their_own(case: Case) -> Evidence:
    """Is a row right whose adapter adapts a layer of a module that another adapter saves, and a base row there?"""
    paths = [path for path, _ in base_model(case.model, case.device).named_modules()]
    inside = [target for target in case.model.targets if any(path.endswith(f"0.mlp.{target}") for path in paths)]
    if not inside:
        raise Inapplicable("no target lies in an mlp of the first block")
    saving, *others = case.scenario.adapters
    # What saves the block comes first, and adapts another one: a layer that is both is PEFT's own muddle.
    first = replace(saving, saved=("0.mlp",), targets=(f"1.mlp.{inside[0]}",))
    adapters = (first, *(replace(one, saved=(), targets=(inside[0],)) for one in others))
    # PEFT adapts the layer in the copy that is saved, too: the active adapter's weights must not act in there.
    active = others[-1].name
    other = Case(case.model, replace(case.scenario, adapters=adapters, active=active), case.device)
    names = [active, saving.name, BASE, *case.rows[3:]]
    return other.expect_rows(other.mixed(names), names)


def _tokens_held(cache: Any) -> int:
    # Breakpoint: huggingface/transformers#26681, 4.36: caches became objects; models of before return tuples.
    return int(cache.get_seq_length() if hasattr(cache, "get_seq_length") else cache[0][0].shape[-2])


@check("H2", draws=Draws(adapters=(2, 3), rows=(2, 4), saved="differ"), applies=saves_modules)
def rows_without_a_saved_module_use_the_base_one(case: Case) -> Evidence:
    """Does a row whose adapter saves nothing, and a base row, go through the base's module?"""
    names = [case.scenario.names[0], case.scenario.names[-1], BASE, *case.rows][: max(2, len(case.rows))]
    return case.expect_rows(case.mixed(names), names)


@check("H3", draws=Draws(adapters=(2, 3), rows=(2, 3), saved="differ"), applies=saves_modules)
def adapters_stay_right_after_switching_and_disabling(case: Case) -> Evidence:
    """Is each adapter right after switching in any order, and the base model while they are disabled?"""
    evidence = Evidence()
    for name in [*case.scenario.names, *reversed(case.scenario.names)]:
        case.peft_model.set_adapter(name)
        evidence += expect_whole_batch(case, name, f"after set_adapter({name!r})")
        with case.peft_model.disable_adapter():
            evidence += expect_whole_batch(case, BASE, f"while disabled, with {name!r} active")
        evidence += expect_whole_batch(case, name, f"after disable_adapter(), with {name!r} active")
    return evidence


@check("H3", draws=Draws(adapters=(3, 3), rows=(2, 3), saved="differ"), applies=saves_modules, quick=False)
def adapters_stay_right_after_loading_and_deleting(case: Case) -> Evidence:
    """Is the active adapter right after others were loaded, and each that is left after one was deleted?"""
    evidence = expect_whole_batch(case, case.scenario.active, "after every adapter was loaded")
    deleted, *left = case.scenario.names
    case.peft_model.set_adapter(deleted)
    error = raised_by(lambda: case.peft_model.delete_adapter(deleted))
    if error is not None:
        raise Mismatch(f"delete_adapter({deleted!r}) raised {type(error).__name__}: {error}")
    evidence += expect_whole_batch(case, _active(case), f"after {deleted!r}, the active one, was deleted")
    for name in left:
        case.peft_model.set_adapter(name)
        evidence += expect_whole_batch(case, name, f"after {deleted!r} was deleted")
    return evidence


@check("H3", "A1", draws=Draws(adapters=(2, 3), rows=(2, 3), saved="differ"), applies=saves_modules)
def a_merged_and_unloaded_model_answers_as_its_adapter(case: Case) -> Evidence:
    """Does `merge_and_unload` leave the outputs of the active adapter, whether it saves modules or not?"""
    import torch

    evidence = Evidence()
    for name in (case.scenario.names[0], case.scenario.names[-1]):
        when = f"after merge_and_unload() with {name!r} active"
        model = copy.deepcopy(case.peft_model)
        model.set_adapter(name)
        try:
            plain = model.merge_and_unload()
        except Exception as error:
            raise Mismatch(f"{type(error).__name__} was raised, but should not {when}: {error}") from error
        with torch.no_grad():
            evidence += _expect_output(case, plain(**case.inputs), name, when)
    return evidence


@check("S4", "A1", draws=Draws(adapters=(2, 2), rows=(2, 3), saved="none"))
def a_merged_adapter_is_not_deleted(case: Case) -> Evidence:
    """Is deleting a merged adapter refused, so that its weights do not stay in the base model's?"""
    model, deleted = case.peft_model, case.scenario.names[0]
    model.set_adapter(deleted)
    model.merge_adapter()
    error = raised_by(lambda: model.delete_adapter(deleted))
    if not isinstance(error, ValueError):
        raise Mismatch(f"delete_adapter of a merged adapter gave {error!r}, but should be refused by a ValueError")
    model.unmerge_adapter()
    return expect_whole_batch(case, deleted, "after deleting the merged adapter was refused")


@check("S4", "H3", draws=Draws(adapters=(2, 2), rows=(2, 3), saved="none"), applies=_has_two_targets)
def a_disabled_model_stays_the_base_model_whatever_is_added(case: Case) -> Evidence:
    """Is a disabled model the base model though an adapter on other layers comes, and is made active?"""
    import torch

    targets = case.model.targets
    first, second = (replace(adapter, targets=(target,)) for adapter, target in zip(case.scenario.adapters, targets))
    model = with_adapters(case.model, [first], case.scenario.seed, case.device)
    model.disable_adapter_layers()
    model.add_adapter(second.name, lora_config(case.model, second))
    fill(model.double().eval(), second, case.scenario.seed, integer="integer" in case.model.tags)
    model.set_adapter(second.name)
    with torch.no_grad():
        disabled = model(**case.inputs)
        model.enable_adapter_layers()
        enabled = model(**case.inputs)
    where = f"disabled, after {second.name!r} was added and made active, {case.model.name}"
    expected = case.oracle.run(BASE)
    return compare_row(tensors_of(disabled), expected, {second.name: tensors_of(enabled)}, case.tier, where)


@check("H4", draws=Draws(adapters=(2, 3), rows=(2, 4), saved="all"), applies=_classifies)
def heads_of_other_sizes_are_refused_or_given_by_row(case: Case) -> Evidence:
    """Are heads of different sizes refused without a trace, and each row right where it has an output of its own?"""
    import torch

    wider = case.scenario.names[1]  # which is in every batch, as the first is
    for model in (case.peft_model, case.oracle.model_of(wider)):
        _widen_head(model, case.model.saved, wider, case.scenario.seed)
    before = footprint(case.peft_model)
    error = raised_by(case.mixed)
    expect_unchanged(before, footprint(case.peft_model), "a mixed call with heads of different sizes")
    if not isinstance(error, ValueError) or "per_sample" not in str(error):
        raise Mismatch(f"a call with heads of different sizes gave {error!r}, but should be refused: per_sample")
    with torch.no_grad():
        outputs = case.peft_model(**case.inputs, adapter_names=list(case.rows), per_sample=True)
    if len(outputs) != len(case.rows):
        raise Mismatch(f"per_sample gave {len(outputs)} outputs, but should {len(case.rows)}")
    evidence = Evidence()
    for row, (name, output) in enumerate(zip(case.rows, outputs)):
        others = {other: case.oracle.run(other, row) for other in (*case.scenario.names, BASE) if other != name}
        where = f"row {row} under {name!r} of {list(case.rows)} by per_sample, {case.model.name}"
        evidence += compare_row(tensors_of(output), case.oracle.run(name, row), others, case.tier, where)
    return evidence


def _widen_head(model: Any, saved: Sequence[str], name: str, seed: int) -> None:
    """Give `name` a head of two outputs more: the last linear layer of the modules that it saves."""
    import torch

    ends = tuple(f"{module}.modules_to_save.{name}" for module in saved)
    inside = [(path, module) for path, module in model.named_modules() if any(end in f".{path}" for end in ends)]
    heads = [(path, module) for path, module in inside if isinstance(module, torch.nn.Linear)]
    if not heads:
        raise Inapplicable("no linear layer is among the modules that adapters save")
    path, head = heads[-1]
    generator = torch.Generator().manual_seed(seed)
    wider = torch.nn.Linear(head.in_features, head.out_features + 2).to(head.weight)
    for parameter in wider.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter)
    parent, _, last = path.rpartition(".")
    setattr(model.get_submodule(parent), last, wider)


@check("H5", draws=Draws(adapters=(2, 3), rows=(2, 4), saved="none"), applies=_has_words)
def trainable_tokens_are_the_rows_own(case: Case) -> Evidence:
    """Are the embeddings of tokens that an adapter trains beside LoRA in its rows, and in no others?"""
    import peft

    if not hasattr(peft.LoraConfig(), "trainable_token_indices"):
        raise Inapplicable("this peft trains no tokens beside LoRA")
    embedding = _name_in(base_model(case.model, case.device), "get_input_embeddings")
    words = sorted(set(case.inputs["input_ids"].flatten().tolist()))
    layers = [target for target in case.model.targets if target != embedding]
    adapters = []
    for index, adapter in enumerate(case.scenario.adapters):
        # Sets that overlap and differ, but for the second adapter, which trains none; PEFT takes no LoRA beside them.
        tokens = () if index == 1 else tuple(words[index // 2 :])
        targets = tuple(target for target in adapter.targets if target in layers) or tuple(layers)
        adapters.append(replace(adapter, tokens=tokens, targets=targets))
    return _expect_rows_of(case, tuple(adapters))


@check("H5", draws=Draws(adapters=(2, 3), rows=(2, 4), saved="none"), applies=_has_words)
def rows_of_a_model_with_tied_weights_are_their_own(case: Case) -> Evidence:
    """Are rows right where the head's weights are the embedding's, which one adapter adapts and another saves?"""
    base = base_model(case.model, case.device)
    out = getattr(base, "get_output_embeddings", lambda: None)()
    if out is None or out.weight is not base.get_input_embeddings().weight:
        raise Inapplicable("the model has no head whose weights are the embedding's")
    embedding, head = _name_in(base, "get_input_embeddings"), _name_in(base, "get_output_embeddings")
    first, second, *rest = case.scenario.adapters
    adapting = [replace(one, targets=tuple(dict.fromkeys([*one.targets, embedding]))) for one in (first, *rest)]
    return _expect_rows_of(case, (replace(adapting[0], saved=(head,)), second, *adapting[1:]))


def _name_in(base: Any, get: str) -> str:
    """Return the last part of the path of the module that `get`, a method of `base`, returns."""
    wanted = getattr(base, get)()
    path: str = next(path for path, module in base.named_modules() if module is wanted)
    return path.split(".")[-1]


def _expect_rows_of(case: Case, adapters: Tuple[Any, ...]) -> Evidence:
    """Compare the rows of the same batch under other `adapters` of the same names."""
    other = Case(case.model, replace(case.scenario, adapters=adapters), case.device)
    return other.expect_rows(other.mixed(), other.rows)


def expect_whole_batch(case: Case, name: str, when: str) -> Evidence:
    """Compare a plain call of the whole batch with a model that never held another adapter."""
    return _expect_output(case, case.plain(), name, when)


def _expect_output(case: Case, output: Any, name: str, when: str) -> Evidence:
    others = {other: case.oracle.run(other) for other in (*case.scenario.names, BASE) if other != name}
    where = f"{when}, under {name!r}, {case.model.name}"
    return compare_row(tensors_of(output), case.oracle.run(name), others, case.tier, where)


def _active(case: Case) -> str:
    """Return the name that the model says is active, by any version's way of saying it."""
    active = case.peft_model.active_adapter
    return active if isinstance(active, str) else active[0]
