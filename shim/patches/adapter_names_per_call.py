"""`adapter_names` as hooks: refused on folded batches, left behind by failures, shared between threads."""

from __future__ import annotations

from typing import Any, Iterator, Sequence

from shim.patch import Patch, Replacement, with_subclasses
from shim.patches import toys


def is_broken() -> bool:
    """Run a toy that folds its batch, then one that fails: is the mixed call wrong, or does it leave a hook?"""
    return _folded_batch_fails() or _failure_leaves_hooks()


def replacements() -> Sequence[Replacement]:
    """Let layers leave their rows to the call and ask it for their adapter, and models take `adapter_names`."""
    from shim import recompute

    return [*_layer_properties(), *_model_methods(), *_hooks(), *_compiled(), *recompute.replacements()]


def _layer_properties() -> Iterator[Replacement]:
    from peft.peft_model import PeftModel

    from shim.experts import computed_for_each_adapter
    from shim.kernels.attention import one_at_a_time, routed_attention
    from shim.modules import layer_kinds
    from shim.selection import ANSWERS, layer_property, model_active_adapter, routed

    for cls in with_subclasses(*layer_kinds()):
        if "forward" in vars(cls):
            wrapped = routed_attention if cls.__name__ == "MultiheadAttention" else routed
            yield Replacement(cls, "forward", wrapped(vars(cls)["forward"]))
        if "_restore_weights" in vars(cls):
            yield Replacement(cls, "_restore_weights", one_at_a_time(vars(cls)["_restore_weights"]))
        if "_activate_lora" in vars(cls):
            yield Replacement(cls, "_activate_lora", computed_for_each_adapter(vars(cls)["_activate_lora"]))
    for cls in layer_kinds():
        for name, answer in ANSWERS.items():
            original = vars(cls).get(name)
            if original is not None:  # wrappers have no active_adapters before huggingface/peft#2376, 0.15.0
                yield Replacement(cls, name, layer_property(original, answer))
    yield Replacement(PeftModel, "active_adapter", model_active_adapter())


def _model_methods() -> Iterator[Replacement]:
    import peft

    from shim.call import forward_with_adapter_names, generate_with_adapter_names

    wrappers = {"forward": forward_with_adapter_names, "generate": generate_with_adapter_names}
    for cls in with_subclasses(peft.PeftModel, peft.PeftMixedModel):
        for name, wrapper in wrappers.items():
            if name in vars(cls):
                yield Replacement(cls, name, wrapper(vars(cls)[name]))
    if "generate" not in vars(peft.PeftModel):
        # Breakpoint: huggingface/peft#1558, peft 0.10.0; before, the base model's generate is found by __getattr__.
        yield Replacement.by(peft.PeftModel, "generate", generate_with_adapter_names(_generate))


def _hooks() -> Iterator[Replacement]:
    """Let a call that raises take off aLoRA's hooks."""
    from peft import peft_model
    from peft.tuners.lora import LoraModel

    from shim.alora import taken_off_after_failure

    # Breakpoint: huggingface/peft#2609, peft 0.18.0: aLoRA.
    if hasattr(peft_model, "get_alora_offsets_for_forward"):
        for cls in with_subclasses(LoraModel):
            original = vars(cls).get("_enable_peft_forward_hooks")
            if original is not None:
                yield Replacement(cls, "_enable_peft_forward_hooks", taken_off_after_failure(original))


def _compiled() -> Iterator[Replacement]:
    """Let names through to a model with a forward of other's: that of torch.compile, or of `disable_adapter()`."""
    import peft

    from shim import graphs
    from shim.call import call_with_adapter_names, compiled_call_with_adapter_names
    from shim.selection import selected_graphs

    for cls in (peft.PeftModel, peft.PeftMixedModel):
        yield Replacement.by(cls, "__call__", call_with_adapter_names())
    if graphs.can_serve():
        yield from graphs.replacements(compiled_call_with_adapter_names, selected_graphs)


def _generate(self: Any, *args: Any, **kwargs: Any) -> Any:
    """Generate with the base model."""
    return self.get_base_model().generate(*args, **kwargs)


def _folded_batch_fails() -> bool:
    import torch

    model, inputs = toys.folded(2)
    with torch.no_grad():
        try:
            mixed = model(inputs, adapter_names=["one", "two"])
        except (ValueError, TypeError):
            return True
        alone = []
        for name in ("one", "two"):
            model.set_adapter(name)
            alone.append(model(inputs))
    return not torch.allclose(mixed, torch.cat([alone[0][:1], alone[1][1:]]))


def _failure_leaves_hooks() -> bool:
    model, inputs = toys.folded(1)
    try:
        model(inputs[:, :1], adapter_names=["one", "two"])  # one feature where the layer takes two
    except (RuntimeError, ValueError, TypeError):
        return any(module._forward_pre_hooks for module in model.modules())
    return True


PATCH = Patch(
    name="adapter_names_per_call",
    defect=(
        "adapter_names are hooks on the model: refused or wrong where the batch is folded, transposed or "
        "beamed, left behind by a failure, shared by threads, ignored by most tuners"
    ),
    breakpoint="none yet; huggingface/peft#1558 (0.10.0) is the first form, #3475 the leak",
    distribution="peft",
    affected=">=0.9",
    clauses=("R1", "R7", "F1", "F2", "F4", "F5", "S1", "S3", "H1", "H2", "G1", "G3", "G4"),
    check="no_tuner_ignores_the_names",
    is_broken=is_broken,
    replacements=replacements,
)
