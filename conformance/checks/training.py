"""Chapter Algebra: a mixed batch trains each adapter as that adapter alone is trained (A4, E6)."""

from __future__ import annotations

import warnings
import zlib
from typing import Any, Callable

from conformance.case import Case, raised_by
from conformance.checks.check import check
from conformance.compare import Evidence, Inapplicable, Mismatch
from conformance.footprint import expect_unchanged, footprint, moved_by
from conformance.gradients import (
    expect_own_gradients,
    has_batch_statistics,
    in_training,
    mixed_gradients,
    sequential_gradients,
)
from conformance.scenarios import Draws
from conformance.shim_switch import explained

_SOME = Draws(adapters=(2, 3), rows=(3, 4), saved="none")


# More adapters than are named: those must get nothing.
@check("A4", draws=Draws(adapters=(3, 4), rows=(2, 4)))
def each_adapter_gets_the_gradient_of_its_own_rows(case: Case) -> Evidence:
    """Does one backward pass give each adapter what training it alone on its rows gives, and the others nothing?"""
    return expect_own_gradients(case, mixed_gradients(case))


@check("A4", draws=_SOME)
def each_row_is_dropped_by_its_own_adapter(case: Case) -> Evidence:
    """Do rows pass through their own adapter's dropout: with the masks given, are gradients those of it alone?"""
    return expect_own_gradients(case, mixed_gradients(case, _with_masks), _with_masks)


@check("A4", "E6", draws=_SOME)
def a_reentrant_checkpoint_keeps_the_names(case: Case) -> Evidence:
    """Are layers that the backward pass runs again run under the names of their call (`use_reentrant=True`)?"""
    return _expect_own_gradients_with_checkpoints(case, reentrant=True)


@check("A4", "E6", draws=_SOME)
def a_checkpoint_without_reentry_keeps_the_names(case: Case) -> Evidence:
    """Are layers that the backward pass runs again run under the names of their call (`use_reentrant=False`)?"""
    return _expect_own_gradients_with_checkpoints(case, reentrant=False)


@check("A4", "S2", draws=_SOME)
def a_training_step_changes_what_one_forward_changes(case: Case) -> Evidence:
    """Does a mixed call in training mode draw as many random numbers as a plain one, and leave nothing behind?"""
    import torch

    model = case.peft_model.train()
    for module in model.modules():
        if has_batch_statistics(module):
            module.eval()
    state = torch.get_rng_state()
    model(**case.inputs)
    after_plain = torch.get_rng_state()
    moving = moved_by(model, lambda: model(**case.inputs))
    torch.set_rng_state(after_plain)
    before = footprint(model)
    for _ in range(2):
        torch.set_rng_state(state)
        model(**case.inputs, adapter_names=list(case.rows))
        after_mixed = torch.get_rng_state()
        torch.set_rng_state(after_plain)
        expect_unchanged(before, footprint(model), "a mixed call in training mode", moving)
        route = explained(model, case.inputs, list(case.rows))
        if route in ("one pass", "live") and not torch.equal(after_mixed, after_plain):
            raise Mismatch("a mixed call in training mode draws other random numbers than a plain one")
    return Evidence()


@check("A4", "F4", draws=_SOME)
def batch_statistics_are_refused_by_name(case: Case) -> Evidence:
    """Is a mixed batch refused whose batch norms would mix the adapters' rows, with their name and untouched?"""
    model = case.peft_model.train()
    names = [name for name, module in model.named_modules() if has_batch_statistics(module)]
    if not names:
        raise Inapplicable("the model has no batch norm")
    before = footprint(model)
    error = raised_by(lambda: model(**case.inputs, adapter_names=list(case.rows)))
    if not isinstance(error, ValueError) or not any(name in str(error) for name in names):
        raise Mismatch(f"{error!r} was raised, but should be a ValueError that names one of {names[:3]}")
    expect_unchanged(before, footprint(model), "a refused call in training mode")
    return Evidence()


def _expect_own_gradients_with_checkpoints(case: Case, reentrant: bool) -> Evidence:
    if not getattr(case.peft_model.get_base_model(), "supports_gradient_checkpointing", False):
        raise Inapplicable("the model has no gradient checkpointing")

    def prepare(model: Any) -> None:
        in_training(model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            base = model.get_base_model()
            try:
                base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
            except (TypeError, ValueError) as error:
                raise Inapplicable(f"the model has no gradient checkpointing: {error}") from error
        if reentrant:
            _let_inputs_require_gradients(base)

    try:
        return expect_own_gradients(case, mixed_gradients(case, prepare), prepare)
    except RuntimeError:
        _check_trained_alone(case, prepare)
        raise


def _check_trained_alone(case: Case, prepare: Callable[[Any], None]) -> None:
    """Check that PEFT trains each adapter alone so; raise `Inapplicable` where it cannot."""
    for adapter in case.scenario.adapters:
        try:
            sequential_gradients(case, adapter, list(range(len(case.rows))), prepare)
        except RuntimeError as error:  # peft 0.9 writes into what an adapted embedding's base returned
            raise Inapplicable(f"PEFT does not train one adapter alone so: {error}") from error


def _let_inputs_require_gradients(base: Any) -> None:
    """Let what reaches the layers require grad, without which reentrant checkpoints train nothing.

    As `enable_input_require_grads` does to embeddings; for pictures too, whose first layers are others.
    """
    import torch

    def require(module: Any, args: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor) and output.is_floating_point() and not output.requires_grad:
            output.requires_grad_(True)

    for module in base.modules():
        if isinstance(module, (torch.nn.Embedding, torch.nn.Conv2d, torch.nn.Conv1d)):
            module.register_forward_hook(require)


def _with_masks(model: Any) -> None:
    """Give every adapter in every layer a dropout whose mask its name and the layer decide."""
    in_training(model)
    for path, module in model.named_modules():
        for name in list(getattr(module, "lora_dropout", ())):
            module.lora_dropout[name] = _mask(f"{path}/{name}")


def _mask(about: str) -> Any:
    import torch

    class Mask(torch.nn.Module):
        """Zero about one feature in three, always the same."""

        def forward(self, x: Any) -> Any:
            dims = 1 if x.dim() < 4 else x.dim() - 1  # the channels of a picture, the features of anything else
            size = x.shape[-dims] if dims > 1 else x.shape[-1]
            generator = torch.Generator().manual_seed(zlib.crc32(about.encode()))
            kept = torch.randint(0, 3, (size,), generator=generator).to(x).clamp(max=1)
            return x * (kept.view(-1, *[1] * (dims - 1)) if dims > 1 else kept)

    return Mask().train()
