"""Training one adapter at a time: the definition of the gradients that a mixed batch must give (A4).

Each adapter is put on a base model of its own and trained on its rows, each alone; the gradients add up. The loss
asks something else of every element of every output, in integers, so that models of integers have exact gradients.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional

from conformance.compare import Evidence, Inapplicable, Mismatch, Vacuous
from conformance.outputs import Tensors, tensors_of
from conformance.subject import owns, with_adapters

if TYPE_CHECKING:
    from conformance.case import Case
    from conformance.scenarios import Adapter

Gradients = Dict[str, Any]
"""The gradient of every parameter by path, None where it has none."""
Prepare = Callable[[Any], None]

_ROUNDING = 1e-12
"""A gradient this small, of a loss that asks for integers, is 0 but for rounding: a key's, of one token alone."""


def in_training(model: Any) -> None:
    """Put `model` in training mode without chance: nothing drops out, and batch norms keep their statistics."""
    model.train()
    for module in model.modules():
        if has_batch_statistics(module):
            module.eval()
        for settings in (module, getattr(module, "config", None)):
            for name, value in list(vars(settings).items()) if hasattr(settings, "__dict__") else ():
                if ("drop" in name or name == "p") and isinstance(value, float):
                    setattr(settings, name, 0.0)


def has_batch_statistics(module: Any) -> bool:
    """Whether `module` is a batch norm."""
    from torch.nn.modules.batchnorm import _BatchNorm

    return isinstance(module, _BatchNorm)


def require_gradients(model: Any, adapters: Any) -> None:
    """Let the weights of `adapters` require grad, and nothing else."""
    for path, parameter in model.named_parameters():
        parameter.requires_grad_(any(owns(adapter, path) for adapter in adapters))


def mixed_gradients(case: Case, prepare: Prepare = in_training) -> Gradients:
    """Return the gradients of one mixed batch on the model under test."""
    model = case.peft_model
    prepare(model)
    require_gradients(model, case.scenario.adapters)
    output = model(**case.inputs, adapter_names=list(case.rows))
    loss = sum(_demand(case.oracle.rows_of(output, row), row) for row in range(len(case.rows)))
    _backward(loss)
    return gradients_of(model)


def sequential_gradients(case: Case, adapter: Adapter, rows: List[int], prepare: Prepare = in_training) -> Gradients:
    """Return the gradients of `adapter` trained alone on `rows`, one after the other."""
    model = with_adapters(case.model, [adapter], case.scenario.seed, case.device)
    prepare(model)
    require_gradients(model, [adapter])
    for row in rows:
        found = tensors_of(model(**{name: value[row : row + 1] for name, value in case.inputs.items()}))
        with_rows = case.oracle.rows_of(found, row=0)
        _backward(_demand({path: found[path] for path in with_rows}, row))
    return gradients_of(model)


def gradients_of(model: Any) -> Gradients:
    """Return the gradient of every parameter."""
    return {path: parameter.grad for path, parameter in model.named_parameters()}


def expect_own_gradients(case: Case, found: Gradients, prepare: Prepare = in_training) -> Evidence:
    """Compare the gradients of a mixed batch with those of each adapter trained alone.

    Raises:
        Mismatch: a gradient differs, or is there where it should not be, zeros included.
        Vacuous: an adapter's gradient from another's row is too small to be seen.
        Inapplicable: one adapter alone has other gradients each time it is trained.
    """
    evidence = Evidence()
    _check_repeatable(case, prepare)
    left = dict(found)
    for adapter in case.scenario.adapters:
        rows = [row for row, name in enumerate(case.rows) if name == adapter.name]
        others = [row for row, name in enumerate(case.rows) if name != adapter.name]
        want = sequential_gradients(case, adapter, rows, prepare)
        own = {path: want[path] for path in found if owns(adapter, path)}
        size = max((float(gradient.abs().max()) for gradient in own.values() if gradient is not None), default=0.0)
        if 0.0 < size < _ROUNDING:
            raise Vacuous(f"the gradients of {adapter.name!r} are {size:.1e} at most, which is rounding")
        for path, gradient in own.items():
            where = f"{path} of rows {rows} under {adapter.name!r} of {list(case.rows)}, {case.model.name}"
            evidence += Evidence(_compare(left.pop(path), gradient, size, case.tier.tolerance, where))
        if rows and others:
            evidence += Evidence(0.0, _power(case, adapter, own, others[0], prepare))
    extra = [path for path, gradient in left.items() if gradient is not None]
    if extra:
        raise Mismatch(f"{extra[0]} got a gradient, but should have none: it is no adapter's [{case.model.name}]")
    return evidence


def _check_repeatable(case: Case, prepare: Prepare) -> None:
    """Check that training one adapter alone twice gives the same gradients; raise `Inapplicable` where it does not."""
    name = case.rows[0]
    adapter = next((one for one in case.scenario.adapters if one.name == name), case.scenario.adapters[0])
    first, second = (sequential_gradients(case, adapter, [0], prepare) for _ in range(2))
    for path, gradient in first.items():
        same = (gradient is None) is (second[path] is None)
        if not same or (gradient is not None and not gradient.allclose(second[path], rtol=1e-9, atol=_ROUNDING)):
            raise Inapplicable(
                f"one adapter trained alone twice has two gradients of {path}: the model draws by chance in training "
                "mode, by other than a module's dropout, and then no run is another's equal"
            )


def _compare(found: Optional[Any], want: Optional[Any], size: float, tolerance: float, where: str) -> float:
    """Return the error relative to `size`, the adapter's largest gradient: some are 0 but for rounding."""
    if found is None or want is None:
        if found is want:
            return 0.0
        have = "no gradient" if found is None else f"a gradient of up to {float(found.abs().max()):.1e}"
        raise Mismatch(f"{have}, but should be {'none' if want is None else 'one'} [{where}]")
    gap = float((found - want).abs().max())
    error = 0.0 if gap == 0.0 else gap / size if size else float("inf")
    if not error <= tolerance:
        raise Mismatch(
            f"the gradient differs by {error:.2e} (relative), but should by {tolerance:.0e} at most [{where}]"
        )
    return error


def _power(case: Case, adapter: Adapter, own: Gradients, other: int, prepare: Prepare) -> float:
    """Return how much another's row would add to the adapter's gradients, at the weight that shows it best.

    Raises:
        Vacuous: too little to be told.
    """
    wrong = sequential_gradients(case, adapter, [other], prepare)
    pairs = [(wrong[path], gradient) for path, gradient in own.items() if gradient is not None]
    found = [float(a.abs().max() / b.abs().max()) for a, b in pairs if a is not None and b.any()]
    separation = max(found, default=0.0)
    if separation <= 0.0 or separation < case.tier.least_separation:
        raise Vacuous(f"row {other} would change the gradient of {adapter.name!r} by {separation:.1e} only")
    return separation


def _demand(rows: Mapping[str, Any], row: int) -> Any:
    """Return a sum over the elements of one row's outputs, each times an integer of its own."""
    import torch

    total: Any = 0.0
    for path, tensor in sorted(_differentiable(rows).items()):
        generator = torch.Generator().manual_seed(zlib.crc32(f"{path}/{row}".encode()))
        weights = torch.randint(-3, 4, tensor.shape, generator=generator).to(tensor)
        total = total + (tensor * weights).sum()
    return total


def _differentiable(rows: Mapping[str, Any]) -> Tensors:
    return {path: tensor for path, tensor in rows.items() if tensor.is_floating_point() and tensor.requires_grad}


def _backward(loss: Any) -> None:
    """Run the backward pass; nothing to do where no output depends on an adapter."""
    if getattr(loss, "requires_grad", False):
        loss.backward()
