"""Installing is all or nothing, once, and undone to the very objects (contract S6)."""

import importlib
import importlib.metadata
import inspect
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import shim
from shim import graphs
from shim.patch import _ABSENT, with_subclasses
from shim.patches import catalogue

# `shim.install` is the function; the module of that name is found by its path.
install_module = importlib.import_module("shim.install")
ROOT = Path(__file__).parents[2]
NAMES = [patch.name for patch in catalogue()]
# Where each patch takes hold, told independently of the patch.
PLACES = {
    "forward_hooks_with_kwargs": [
        ("torch.nn", "Module", "__call__"),
        ("torch.nn", "Module", "register_forward_pre_hook"),
        ("torch.nn", "Module", "register_forward_hook"),
    ],
    "saved_modules_switch": [
        ("peft.utils.other", "ModulesToSaveWrapper", "set_adapter"),
        ("peft.utils.other", "ModulesToSaveWrapper", "enable_adapters"),
    ],
    "failed_load": [("peft", "PeftModel", "load_adapter")],
    "saved_modules_delete": [("peft", "PeftModel", "delete_adapter")],
    "saved_modules_attributes": [("peft.utils.other", "ModulesToSaveWrapper", "__getattr__")],
    "saved_modules_unload": [("peft", "LoraModel", "_unload_and_optionally_merge")],
    "disabled_stay_disabled": [("peft", "PeftModel", "add_adapter")],  # which saved_modules_switch takes, too
    "adapter_names_per_call": [
        ("peft", "PeftModel", "active_adapter"),
        ("peft", "PeftModel", "forward"),
        ("peft", "PeftModelForCausalLM", "generate"),
        ("peft.tuners.tuners_utils", "BaseTunerLayer", "active_adapters"),
        ("peft.utils.other", "ModulesToSaveWrapper", "disable_adapters"),
    ],
    "models_own_adapters": [
        ("transformers", "GenerationMixin", "generate"),
        ("transformers", "PreTrainedModel", "__init_subclass__"),
    ],
    "models_own_switching": [  # and load_adapter, which failed_load takes, too
        ("transformers.integrations", "PeftAdapterMixin", "set_adapter"),
        ("transformers.integrations", "PeftAdapterMixin", "enable_adapters"),
    ],
    "pipeline_adapter_names": [("transformers", "Pipeline", "__call__")],
    "compiled_generate": [("transformers", "PreTrainedModel", "get_compiled_call")],
    "weighted_svd": [("peft", "LoraModel", "_svd_generalized_task_arithmetic_weighted_adapter")],
    "weighted_negative": [("peft", "LoraModel", "_generalized_task_arithmetic_weighted_adapter")],
    "weighted_rslora": [("peft", "LoraModel", "add_weighted_adapter")],
    "weighted_dare": [("peft.utils", "merge_utils", "random_pruning")],
}


@pytest.fixture(autouse=True)
def _uninstalled(monkeypatch):
    monkeypatch.delenv("SHIM_DISABLE", raising=False)
    shim.uninstall()
    yield
    shim.uninstall()


def place(patch_name):
    """The objects at the patch's places, or None where upstream has none there."""
    found = []
    for module, cls, attribute in PLACES[patch_name]:
        owner = getattr(importlib.import_module(module), cls)
        found.append(inspect.getattr_static(owner, attribute, None))
    return found


def same(left, right):
    return len(left) == len(right) and all(one is other for one, other in zip(left, right))


def displaced():
    """(replacement, raw object that it displaced) of everything that is installed."""
    return list(install_module._INSTALLED[0]._done)


def owners():
    """Every module and class of peft, and what patches of torch and transformers may touch."""
    import peft
    import torch.distributed.nn.api.remote_module
    import torch.fx._symbolic_trace
    import torch.jit._recursive
    import torch.utils.checkpoint
    import torch.utils.hooks
    import transformers

    generating = with_subclasses(transformers.GenerationMixin, transformers.PreTrainedModel)
    generating = [cls for cls in generating if "generate" in vars(cls)]
    found = [transformers.Pipeline, transformers.integrations.PeftAdapterMixin, *generating]
    found += [transformers.PreTrainedModel] if transformers.PreTrainedModel not in found else []
    found += transformers.GenerationMixin.__mro__[:-1]
    found += [torch.nn.Module, torch.utils.hooks.RemovableHandle]
    found += [torch.utils.checkpoint, torch.utils.checkpoint.CheckpointFunction]
    found += [torch.fx._symbolic_trace, torch.jit._recursive, torch.distributed.nn.api.remote_module]
    if graphs.can_serve():
        found += [torch._dynamo.eval_frame, torch._dynamo.eval_frame.OptimizedModule]
    found += with_subclasses(peft.tuners.tuners_utils.BaseTunerLayer)  # those of other tests, too
    for name, module in sorted(sys.modules.items()):
        if name.split(".")[0] == "peft" and module is not None:
            found.append(module)
            found += [cls for cls in vars(module).values() if inspect.isclass(cls)]
    return {id(owner): owner for owner in found if getattr(owner, "__module__", "peft") != "builtins"}


def everything():
    """{(owner, attribute): raw object}, less torch's own counter of handles and python's of warnings."""
    return {
        (getattr(owner, "__module__", ""), owner.__name__, key, name): value
        for key, owner in owners().items()
        for name, value in list(vars(owner).items())
        if name not in ("next_id", "__warningregistry__")
    }


def differences(before, after):
    absent = object()
    return sorted(
        key[:2] + key[3:] for key in set(before) | set(after) if before.get(key, absent) is not after.get(key, absent)
    )


def test_importing_the_shim_imports_neither_torch_nor_peft_nor_transformers():
    code = "import sys, shim, shim.__main__; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=str(ROOT), capture_output=True, text=True, check=True)
    assert "shim.patches" in run.stdout.split()
    assert not {"torch", "peft", "transformers", "numpy"} & set(run.stdout.split())


def test_installing_everything_disabled_imports_no_torch_either():
    code = "import sys, shim; s = shim.install(); print(any(p.applied for p in s), *sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=str(ROOT), capture_output=True, text=True, check=True,
        env={**os.environ, "SHIM_DISABLE": "1"},
    )  # fmt: skip
    applied, *modules = run.stdout.split()
    assert applied == "False"
    assert not {"torch", "peft"} & set(modules)


def test_installing_twice_is_installing_once():
    first = shim.install()
    values = {name: place(name) for name in NAMES}
    number = len(displaced())
    assert shim.install() is first
    assert shim.status() is first
    assert len(displaced()) == number
    assert all(same(place(name), values[name]) for name in NAMES)


def test_uninstalling_restores_the_very_objects():
    shim.status()  # imports what the probes need
    before = everything()
    shim.install()
    expected = {
        # What two patches take is upstream's where the first took it.
        (replacement.owner, replacement.attribute): raw
        for replacement, raw in reversed(displaced())
        if raw is not _ABSENT
    }
    done = [replacement for replacement, _ in displaced()]
    assert done
    shim.uninstall()
    for (owner, attribute), raw in expected.items():
        assert vars(owner)[attribute] is raw, f"{owner}.{attribute}"
    for replacement in done:
        if (replacement.owner, replacement.attribute) not in expected:
            assert replacement.attribute not in vars(replacement.owner)
    assert differences(before, everything()) == []


def test_installing_changes_what_the_patches_say_and_nothing_else():
    shim.status()
    before = everything()
    shim.install()
    wanted = {(getattr(r.owner, "__module__", ""), r.owner.__name__, r.attribute): r.value for r, _ in displaced()}
    assert set(differences(before, everything())) == set(wanted)


def test_a_second_round_installs_over_upstreams_objects_again():
    shim.status()
    before = everything()
    for _ in range(2):
        shim.install()
        shim.uninstall()
    assert differences(before, everything()) == []


def test_uninstalling_what_is_not_installed_does_nothing():
    shim.status()
    before = everything()
    shim.uninstall()
    shim.uninstall()
    assert differences(before, everything()) == []


def test_threads_that_install_at_once_install_once():
    shim.status()
    before = everything()
    barrier = threading.Barrier(8)
    found = []

    def install():
        barrier.wait(timeout=30)
        found.append(shim.install())

    threads = [threading.Thread(target=install) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert len(found) == 8
    assert all(statuses is found[0] for statuses in found)
    functions = [(getattr(r.value, "__func__", r.value), getattr(raw, "__func__", raw)) for r, raw in displaced()]
    wrapped = [(value, raw) for value, raw in functions if hasattr(value, "__wrapped__") and callable(raw)]
    assert wrapped
    assert all(value.__wrapped__ is raw for value, raw in wrapped)
    shim.uninstall()
    assert differences(before, everything()) == []


@pytest.mark.parametrize("name", NAMES)
def test_upstream_stays_where_a_patch_is_not_needed_and_only_there(name):
    before = place(name)
    status = {s.patch.name: s for s in shim.install()}[name]
    if status.needed:
        assert status.applied
        assert not any(one is other for one, other in zip(before, place(name)) if one is not None)
    else:
        assert not status.applied
        assert same(before, place(name))


@pytest.mark.parametrize("statuses", [shim.status, shim.install])
def test_every_probe_agrees_with_the_measured_versions(statuses):
    found = statuses()
    assert [s.patch.name for s in found] == NAMES
    assert [s.patch.name for s in found if not s.agree] == []


def test_a_status_says_what_is_needed_and_what_is_applied():
    before = shim.status()
    after = shim.install()
    assert [s.needed for s in before] == [s.needed for s in after]
    assert not any(s.applied for s in before)
    assert [s.applied for s in after] == [bool(s.needed) for s in after]
    assert {s.reason for s in after} <= {"the defect is here", "upstream is right here"}


@pytest.mark.parametrize("value", ["1", " 1 ", "1,saved_modules_delete"])
def test_shim_disable_1_installs_nothing(monkeypatch, value):
    shim.status()
    before = everything()
    monkeypatch.setenv("SHIM_DISABLE", value)
    statuses = shim.install()
    assert [(s.needed, s.applied, s.reason) for s in statuses] == [(None, False, "left out by SHIM_DISABLE")] * len(
        NAMES
    )
    assert differences(before, everything()) == []


@pytest.mark.parametrize("name", NAMES)
def test_shim_disable_leaves_out_the_named_patch_and_no_other(monkeypatch, name):
    shim.status()
    before = place(name)
    monkeypatch.setenv("SHIM_DISABLE", f"{name}, no_such_patch")
    statuses = {s.patch.name: s for s in shim.install()}
    assert (statuses[name].needed, statuses[name].applied) == (None, False)
    shared = name == "disabled_stay_disabled" and statuses["saved_modules_switch"].applied
    assert shared or same(before, place(name))
    assert all(s.applied is s.needed is s.expected for n, s in statuses.items() if n != name)


@pytest.mark.parametrize("value", ["", " ", ","])
def test_an_empty_shim_disable_leaves_nothing_out(monkeypatch, value):
    monkeypatch.setenv("SHIM_DISABLE", value)
    assert all(s.needed is not None for s in shim.install())


@pytest.mark.parametrize("version", ["99.0", "99.0.dev20991231+git0a1b2c3", "our-fork", None])
def test_on_an_unknown_version_the_probes_decide(monkeypatch, version):
    known = {status.patch.name: status.needed for status in shim.status()}
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    assert {status.patch.name: status.applied for status in shim.install()} == known


def test_probes_leave_random_generators_and_upstream_as_they_were():
    import random

    import torch

    shim.status()
    torch.manual_seed(3)
    before, rng, python = everything(), torch.get_rng_state(), random.getstate()
    shim.status()
    assert torch.equal(torch.get_rng_state(), rng)
    assert random.getstate() == python
    assert torch.is_grad_enabled()
    assert differences(before, everything()) == []


def test_installing_leaves_the_random_generator_as_it_was():
    import torch

    torch.manual_seed(4)
    rng = torch.get_rng_state()
    shim.install()
    assert torch.equal(torch.get_rng_state(), rng)
