"""Every patch is data of one shape, in a file of its name, and its probe agrees with the measured range."""

import ast
import importlib
import inspect
import pickle
import pkgutil
import re

import pytest

import shim
import shim.patches
from shim.patch import Applied, Patch
from shim.patches import catalogue
from shim.versions import installed

PATCHES = pytest.mark.parametrize("patch", catalogue(), ids=lambda patch: patch.name)
DISTRIBUTIONS = {"torch", "peft", "transformers"}
# The chapters of the contract, and how many clauses each has.
CLAUSES = {"R": 8, "F": 5, "S": 7, "H": 5, "G": 8, "L": 5, "A": 4, "E": 6, "C": 3}


def modules():
    names = sorted(module.name for module in pkgutil.iter_modules(shim.patches.__path__))
    return [importlib.import_module(f"shim.patches.{name}") for name in names]


def patch_modules():
    return [module for module in modules() if hasattr(module, "PATCH")]


@pytest.fixture(autouse=True)
def _not_installed():
    shim.uninstall()


def test_no_two_patches_have_the_same_name():
    names = [patch.name for patch in catalogue()]
    assert sorted(set(names)) == sorted(names)


def test_every_patch_file_is_in_the_catalogue_and_nothing_else_is():
    in_files = {id(module.PATCH): module.__name__ for module in patch_modules()}
    in_catalogue = {id(patch): patch.name for patch in catalogue()}
    assert set(in_files) == set(in_catalogue), (in_files, in_catalogue)


def test_the_catalogue_is_the_same_objects_each_time():
    first, second = catalogue(), catalogue()
    assert len(first) == len(second)
    assert all(one is other for one, other in zip(first, second))


@pytest.mark.parametrize("module", patch_modules(), ids=lambda module: module.__name__.split(".")[-1])
def test_a_patch_file_has_its_patchs_name_and_ends_in_it(module):
    assert isinstance(module.PATCH, Patch)
    assert module.__name__ == f"shim.patches.{module.PATCH.name}"
    last = ast.parse(inspect.getsource(module)).body[-1]
    assert isinstance(last, ast.Assign)
    assert [target.id for target in last.targets] == ["PATCH"]


@PATCHES
def test_a_breakpoint_names_an_upstream_pull_request(patch):
    assert re.search(r"\b(pytorch|huggingface)/(pytorch|peft|transformers)#\d+", patch.breakpoint)


@PATCHES
def test_clauses_are_those_of_the_contract(patch):
    assert patch.clauses
    assert len(set(patch.clauses)) == len(patch.clauses)
    for clause in patch.clauses:
        assert re.fullmatch(r"[A-Z][1-9]", clause), clause
        assert int(clause[1:]) <= CLAUSES[clause[0]], clause


@PATCHES
def test_the_distribution_is_one_of_those_served_and_is_installed_here(patch):
    assert patch.distribution in DISTRIBUTIONS
    assert installed(patch.distribution) is not None


@PATCHES
def test_the_defect_is_one_line_of_words(patch):
    assert len(patch.defect.split()) > 3
    assert "\n" not in patch.defect


@PATCHES
def test_the_probe_finds_the_defect_where_it_was_measured(patch):
    assert patch.is_broken() is patch.expected


@PATCHES
def test_the_probe_finds_nothing_once_the_patches_are_in_place(patch, installed_shim):
    assert patch.is_broken() is False


# Only patches that are needed here have a place that they take.
NEEDED = pytest.mark.parametrize("patch", [p for p in catalogue() if p.expected], ids=lambda patch: patch.name)


@pytest.fixture
def functions(patch):
    """(replacement, displaced function or None) of each function of the one patch, in place."""
    applied = Applied()
    applied.add(patch.replacements())
    done = [(r, raw if inspect.isfunction(raw) else None) for r, raw in applied._done]
    yield [(r, raw) for r, raw in done if inspect.isfunction(r.value)]
    applied.restore()


@NEEDED
def test_patched_methods_keep_their_names(functions):
    assert functions
    for replacement, raw in functions:
        wanted = names(raw) if raw else names_of_new(replacement)
        assert names(replacement.value) == wanted


def names(function):
    return function.__name__, function.__qualname__, function.__module__


def names_of_new(replacement):
    """What a method that upstream lacks should be called."""
    owner, name = replacement.owner, replacement.attribute
    return name, f"{owner.__qualname__}.{name}", owner.__module__


@NEEDED
def test_patched_methods_keep_their_parameters(functions):
    """Every parameter of upstream's stays, in order; what is added is by keyword and has a default."""
    for replacement, raw in functions:
        if raw is not None:
            patched = list(inspect.signature(replacement.value).parameters.values())
            upstream = list(inspect.signature(raw).parameters.values())
            assert [shape(p) for p in patched[: len(upstream)]] == [shape(p) for p in upstream]
            assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in patched[len(upstream) :])


def shape(parameter):
    variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return (None if variadic else parameter.name, parameter.kind, parameter.default)


@NEEDED
def test_patched_methods_pickle_by_name(functions):
    for replacement, _ in functions:
        assert pickle.loads(pickle.dumps(replacement.value)) is replacement.value


def test_patched_properties_keep_their_documentation_and_setters():
    applied = Applied()
    applied.add(next(p for p in catalogue() if p.name == "adapter_names_per_call").replacements())
    properties = [(r.value, raw) for r, raw in applied._done if isinstance(raw, property)]
    try:
        assert properties
        for value, raw in properties:
            assert (value.__doc__, value.fset, value.fdel) == (raw.__doc__, raw.fset, raw.fdel)
    finally:
        applied.restore()
