"""Chapter Engines: a mixed batch over several processes (E2), and on weights that accelerate keeps elsewhere (E3)."""

from __future__ import annotations

import copy
import tempfile
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Callable, Dict, Sequence

from conformance.case import Case, reordered
from conformance.checks.check import check
from conformance.compare import Evidence, Inapplicable
from conformance.outputs import tensors_of
from conformance.processes import in_two
from conformance.scenarios import Draws

if TYPE_CHECKING:
    from conformance.models import Model

_SOME = Draws(adapters=(2, 3), rows=(3, 4), saved="none")


def _is_the_example(model: Model) -> bool:
    """Whether `model` is the one that engines are shown on: what they do hangs on none."""
    return model.name == "llama"


@check("E2", draws=_SOME, applies=_is_the_example, quick=False)
def data_parallel_ranks_have_rows_of_their_own(case: Case) -> Evidence:
    """Is each row its own where two ranks of DistributedDataParallel have other names and other batch sizes?"""
    import torch

    return _expect_rows_on_two_ranks(case, torch.nn.parallel.DistributedDataParallel)


@check("E2", draws=_SOME, applies=_is_the_example, quick=False)
def fully_sharded_ranks_have_rows_of_their_own(case: Case) -> Evidence:
    """Is each row its own, and does no rank wait for ever, where two ranks of `fully_shard` have other names?"""
    import torch

    if not hasattr(getattr(torch.cpu, "Stream", None), "record_event"):
        raise Inapplicable("torch has no fully_shard that runs on the CPU: it came after torch 2.6")
    from torch.distributed import fsdp

    def shard(model: Any) -> Any:
        for block in _blocks(model):
            fsdp.fully_shard(block)
        return fsdp.fully_shard(model)

    return _expect_rows_on_two_ranks(case, shard)


@check("E3", draws=_SOME, applies=_is_the_example, quick=False)
def rows_are_the_same_where_weights_are_kept_elsewhere(case: Case) -> Evidence:
    """Is each row its own on a model that accelerate offloads to memory or disk, or dispatches by a device map?"""
    if find_spec("accelerate") is None:
        raise Inapplicable("accelerate is not installed")
    import accelerate
    import torch

    device = torch.device(case.device)
    try:
        accelerate.cpu_offload(torch.nn.Linear(1, 1).to(device), device)(torch.ones(1, 1, device=device))
    except AttributeError as error:  # newer ones ask for torch.compiler, which torch 2.0 has not
        raise Inapplicable(f"this accelerate does not work with this torch: {error}") from error
    evidence = Evidence()
    with tempfile.TemporaryDirectory() as folder:
        ways: Dict[str, Callable[[Any], Any]] = {
            "cpu_offload": lambda model: accelerate.cpu_offload(model, device),
            "disk_offload": lambda model: accelerate.disk_offload(model, folder, device),
            "dispatch_model": lambda model: accelerate.dispatch_model(
                model, {"": case.device}, main_device=case.device, force_hooks=True
            ),
        }
        for keep in ways.values():
            model = keep(copy.deepcopy(case.peft_model))
            with torch.no_grad():
                for _ in range(2):
                    output = model(**case.inputs, adapter_names=list(case.rows))
                    evidence += case.expect_rows(output, case.rows)
    return evidence


def _expect_rows_on_two_ranks(case: Case, wrap: Callable[[Any], Any]) -> Evidence:
    """Check the rows of two ranks, one of which meets a batch of another size than before, and has to trace."""
    import torch

    if torch.device(case.device).type != "cpu":
        raise Inapplicable("two ranks are shown on the CPU")
    names = [list(case.rows), [*case.rows[1:], case.rows[0]]]
    peft_model, inputs = case.peft_model, case.inputs

    def run(rank: int) -> Any:
        model = wrap(peft_model)
        own: Sequence[str] = names[rank]
        some = list(range(len(own) - rank))  # the second rank begins with a row less
        with torch.no_grad():
            model(**reordered(inputs, some), adapter_names=own[: len(some)])
            return tensors_of(model(**inputs, adapter_names=own))

    evidence = Evidence()
    for rank, found in enumerate(in_two(run)):
        evidence += case.expect_rows(found, names[rank])
    return evidence


def _blocks(model: Any) -> Sequence[Any]:
    """Return the layers of a model, as they are sharded."""
    import torch

    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    return list(lists[0])
